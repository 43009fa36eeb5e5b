"""How sure a recognizer is of a word, and how well that tells right words from wrong ones.

What a transducer gives a piece at its frame says two things at once: whether a piece is emitted here and not
a frame later, and which one. Only the second is about the word. So a piece's confidence is its posterior
without the blank, p(piece) / (1 - p(blank)), and that of a word is the geometric mean over its pieces.
docs/streaming.md has what the alternatives would give.

Shapes: N words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

BINS = 10
"""Of equal width in confidence, for reliability and its error."""


def word_probability(log_confidences: Sequence[float]) -> float:
    """A word's confidence before calibration, in [0, 1].

    `log_confidences` are the natural logarithms of the confidences of its pieces; at least one.
    """
    return exp(min(0.0, sum(log_confidences) / len(log_confidences)))


@dataclass(frozen=True)
class ReliabilityBin:
    """The words whose confidence lies in an interval."""

    low: float
    high: float
    words: int
    confidence: float
    """Mean of theirs."""
    accuracy: float
    """Share of them that is right."""


def reliability(confidences: Sequence[float], correct: Sequence[bool]) -> list[ReliabilityBin]:
    """The bins that hold any words, from 0 to 1."""
    confidences_N, correct_N = _arrays(confidences, correct)
    places_N = np.minimum((confidences_N * BINS).astype(int), BINS - 1)
    bins = []
    for place in sorted(set(places_N.tolist())):
        here_N = places_N == place
        mean, share = float(confidences_N[here_N].mean()), float(correct_N[here_N].mean())
        bins.append(ReliabilityBin(place / BINS, (place + 1) / BINS, int(here_N.sum()), mean, share))
    return bins


def calibration_error(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """Expected calibration error: how far the confidence of a word's bin is from its accuracy, on average.

    None without words. Naeini et al., *Obtaining well calibrated probabilities using Bayesian binning*, 2015.
    """
    bins = reliability(confidences, correct)
    total = sum(part.words for part in bins)
    if not total:
        return None
    return sum(part.words * abs(part.confidence - part.accuracy) for part in bins) / total


def area_under_curve(confidences: Sequence[float], correct: Sequence[bool]) -> float | None:
    """How often a right word has more confidence than a wrong one, ties half: the area under the ROC curve.

    None when there are no right or no wrong words.
    """
    confidences_N, correct_N = _arrays(confidences, correct)
    num_right, num_wrong = int(correct_N.sum()), int((~correct_N).sum())
    if not num_right or not num_wrong:
        return None
    _, places_N, counts = np.unique(confidences_N, return_inverse=True, return_counts=True)
    ranks_N = (np.cumsum(counts) - (counts - 1) / 2)[places_N]
    return float((ranks_N[correct_N].sum() - num_right * (num_right + 1) / 2) / (num_right * num_wrong))


def _arrays(
    confidences: Sequence[float], correct: Sequence[bool]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    if len(confidences) != len(correct):
        raise ValueError(f"{len(confidences)} confidences of {len(correct)} words")
    return np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=bool)
