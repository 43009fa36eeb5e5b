"""Bootstrap intervals over utterances and training seeds at once.

An interval over the utterances of one training says how sure we are about that one model; what a method
does differs from seed to seed too. So each draw resamples both, independently: seeds with replacement and
utterances with replacement, every drawn model on every drawn utterance (the pigeonhole bootstrap of crossed
factors: Owen, *The pigeonhole bootstrap*, Annals of Applied Statistics 2007). Both systems of a comparison
take the same draw: the same test utterances (paired, as Bisani and Ney, *Bootstrap estimates for confidence
intervals in ASR performance evaluation*, ICASSP 2004, do), and the same seeds, since models of one seed share
a teacher and the order of batches. Word errors are summed before they are divided, so a long utterance
counts as its words do.

Where at least `MIN_SPEAKERS` speakers are known, speakers are drawn in the place of utterances, each with
all of its own: utterances of one speaker are alike.

With S seeds the draws contain only (S - 1) / S of the variance between seeds, two thirds with three seeds, so
such intervals are somewhat too narrow where seeds disagree more than utterances do; more seeds mend that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdasr.evaluation.statistics import MIN_USABLE, Interval, by_speaker

# Shapes: S seeds, N utterances, R resamples, V values of each utterance.

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Draws:
    """How the intervals of a report are computed."""

    num_resamples: int = 2000
    confidence: float = 0.95
    seed: int = 1
    """The same seed draws the same seeds and utterances, whatever the values."""
    speakers: Sequence[str] | None = None
    """Of each utterance: speakers are drawn, each with all utterances; None, or too few: utterances are."""


def crossed_interval(
    values_VSN: Sequence[Floats] | Floats, statistic: Callable[[Floats], Floats], draws: Draws | None = None
) -> Interval:
    """A statistic of sums over seeds and utterances, with its bootstrap interval.

    Args:
        values_VSN: V values of every utterance under every seed.
        statistic: from sums (V, R) to R numbers, not finite where it is not defined.
        draws: None: the defaults.

    Returns:
        The statistic of all seeds and utterances. Its ends are nan when it is not defined in more than
        one draw of twenty, and of a single utterance; `count` is the number of utterances.

    Raises:
        ValueError: the values are not three-dimensional.
    """
    draws = draws or Draws()
    stacked_VSN = np.asarray(values_VSN, dtype=np.float64)
    if stacked_VSN.ndim != 3:
        raise ValueError(f"expected (values, seeds, utterances), got {stacked_VSN.shape}")
    count = stacked_VSN.shape[2]
    if 0 in stacked_VSN.shape:
        return Interval(np.nan, np.nan, np.nan, count)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = float(statistic(stacked_VSN.sum(axis=(1, 2))[:, None])[0])
        units_VSG, num_speakers = by_speaker(stacked_VSN, draws.speakers)
        drawn_R = statistic(_crossed_sums(units_VSG, draws))
    usable_R = drawn_R[np.isfinite(drawn_R)]
    if not np.isfinite(estimate) or count < 2 or len(usable_R) < MIN_USABLE * len(drawn_R):
        return Interval(estimate if np.isfinite(estimate) else np.nan, np.nan, np.nan, count, num_speakers)
    tail = 50.0 * (1.0 - draws.confidence)
    low, high = np.percentile(usable_R, [tail, 100.0 - tail])
    return Interval(estimate, float(low), float(high), count, num_speakers)


def _crossed_sums(values_VSN: Floats, draws: Draws, block: int = 256) -> Floats:
    """Sums (V, R) over drawn seeds x drawn utterances."""
    generator = np.random.default_rng(draws.seed)
    _, num_seeds, count = values_VSN.shape
    sums = []
    for start in range(0, draws.num_resamples, block):
        size = min(block, draws.num_resamples - start)
        seeds_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=size)
        times_RN = generator.multinomial(count, np.full(count, 1 / count), size=size)
        sums.append(np.einsum("rs,vsr->vr", seeds_RS, values_VSN @ times_RN.T))
    return np.concatenate(sums, axis=1)


def wer_over_seeds(errors_SN: Floats, words_SN: Floats, draws: Draws | None = None) -> Interval:
    """Word error rate in percent of all seeds together."""
    return crossed_interval([errors_SN, words_SN], lambda sums: 100 * sums[0] / sums[1], draws)


def reduction_over_seeds(row_SN: Floats, base_SN: Floats, draws: Draws | None = None) -> Interval:
    """By how many percent `row` makes fewer errors than `base` on the same utterances and seeds."""
    return crossed_interval([row_SN, base_SN], lambda sums: 100 * (1 - sums[0] / sums[1]), draws)


def gain_over_seeds(row_SN: Floats, base_SN: Floats, draws: Draws | None = None) -> Interval:
    """The mean of `base - row` where both have a value (nan: none): how much earlier `row` is.

    `count` is the number of utterances that have both values under some seed.
    """
    both_SN = np.isfinite(row_SN) & np.isfinite(base_SN)
    difference_SN = np.where(both_SN, base_SN - row_SN, 0.0)
    found = crossed_interval(
        [difference_SN, both_SN.astype(np.float64)], lambda sums: sums[0] / sums[1], draws
    )
    count = int(both_SN.any(axis=0).sum())
    return Interval(found.estimate, found.low, found.high, count, found.speakers)


def coverage_over_seeds(row_SN: Floats, base_SN: Floats, timed_SN: Floats) -> float | None:
    """Share of the utterances and seeds in which both have a value (nan: none).

    Only those that both can have timed (1, else 0) count; None without any.
    """
    both_SN = np.isfinite(row_SN) & np.isfinite(base_SN)
    return float(both_SN[timed_SN > 0].mean()) if timed_SN.any() else None


def gap_closed(row_SN: Floats, base_SN: Floats, topline_SN: Floats, draws: Draws | None = None) -> Interval:
    """`(base - row) / (base - topline)` of the errors on the same utterances.

    It is 0 at the baseline, 1 at the topline, and undefined (nan) when the baseline makes no more errors than
    the topline: then there is no gap.
    """

    def share(sums: Floats) -> Floats:
        row_R, base_R, topline_R = sums
        return np.where(base_R > topline_R, (base_R - row_R) / (base_R - topline_R), np.nan)

    return crossed_interval([row_SN, base_SN, topline_SN], share, draws)
