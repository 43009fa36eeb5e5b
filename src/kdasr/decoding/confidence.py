"""How sure a recogniser is of a word: from the posteriors of its pieces to a number in [0, 1]."""

from collections.abc import Sequence
from math import exp


def word_probability(log_probs: Sequence[float]) -> float:
    """A word's confidence before calibration, from the log-posteriors of its pieces at their frames."""
    return exp(min(0.0, sum(log_probs)))
