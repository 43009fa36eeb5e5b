"""Summaries, and bootstrap intervals for means, word error rates and their differences.

The percentile bootstrap (Efron 1979; for word error rates Bisani and Ney 2004): speakers are drawn with
replacement, each with all utterances, the statistic is computed on each draw, and the interval holds the
middle 95 % of the draws. Utterances of one speaker are alike, so that drawing single ones would promise too
much.
Where speakers are not known, or there are fewer than `MIN_SPEAKERS` of them, utterances are drawn.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Shapes: N utterances, G speakers, V values, R resamples.

Floats = NDArray[np.float64]
MIN_SPEAKERS = 5
"""Fewer are no sample of speakers."""
MIN_USABLE = 0.95
"""Share of draws in which a ratio must be defined for it to have an interval."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval; all nan when there is nothing to estimate from."""

    estimate: float
    low: float
    high: float
    count: int
    """Utterances that it rests on."""
    speakers: int = 0
    """Speakers that were drawn; 0: single utterances were."""

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def summarize(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, median, 90th and 99th percentile and count; None instead of numbers when `values` is empty."""
    if not len(values):
        return {"mean": None, "p50": None, "p90": None, "p99": None, "count": 0}
    array = np.asarray(values, dtype=np.float64)
    p50, p90, p99 = (float(value) for value in np.percentile(array, [50, 90, 99]))
    return {"mean": float(array.mean()), "p50": p50, "p90": p90, "p99": p99, "count": len(array)}


def speakers_of(ids: Iterable[str], named: Iterable[str | None] | None = None) -> list[str] | None:
    """The speaker of each utterance; None unless all are known.

    Args:
        ids: of utterances; LibriSpeech's, `speaker-chapter-number`, name the speaker.
        named: what the corpus says; None or empty where it says nothing.
    """
    ids = list(ids)
    told = [None] * len(ids) if named is None else list(named)
    found = [speaker or _speaker_in(id) for id, speaker in zip(ids, told, strict=True)]
    known = [speaker for speaker in found if speaker]
    return known if len(known) == len(ids) else None


def _speaker_in(id: str) -> str | None:
    found = re.fullmatch(r"([^-]+)-[^-]+-\d+", id)
    return found[1] if found else None


def by_speaker(values: Floats, speakers: Sequence[str] | None) -> tuple[Floats, int]:
    """Sums over the utterances of each speaker, and how many speakers there are.

    Args:
        values: (..., N).
        speakers: of each utterance; None: not known.

    Returns:
        `(..., G)` and G; `values` as they are, and 0, where there are too few speakers.
    """
    names = sorted(set(speakers or ()))
    if len(names) < MIN_SPEAKERS or speakers is None:
        return values, 0
    place = {name: index for index, name in enumerate(names)}
    place_N = [place[name] for name in speakers]
    sums = [np.bincount(place_N, row_N, len(names)) for row_N in values.reshape(-1, len(speakers))]
    return np.reshape(sums, (*values.shape[:-1], len(names))), len(names)


def bootstrap_interval(
    numerators: ArrayLike,
    denominators: ArrayLike | None = None,
    *,
    speakers: Sequence[str] | None = None,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 1,
) -> Interval:
    """The mean of per-utterance values, or a ratio of two sums, with its bootstrap interval.

    Its ends are nan where more than one draw in twenty has a denominator of 0, as against a system with an
    error or two: without those draws the interval would be too narrow. So they are of a single utterance, of
    which all draws are alike.

    Args:
        numerators: (N,) one value per utterance.
        denominators: (N,) weights; the statistic is `sum(numerators) / sum(denominators)`. None: the mean.
        speakers: of each utterance (see `speakers_of`); None: utterances are drawn.
        num_resamples: draws of G speakers, or of N utterances.
        confidence: probability that the interval covers.
        seed: of the draws; the same seed draws the same utterances, whatever the values.

    Raises:
        ValueError: the two arrays differ in length.
    """
    top_N = np.asarray(numerators, dtype=np.float64)
    bottom_N = np.ones_like(top_N) if denominators is None else np.asarray(denominators, dtype=np.float64)
    if top_N.shape != bottom_N.shape or top_N.ndim != 1:
        raise ValueError(f"expected two arrays of one length, got {top_N.shape} and {bottom_N.shape}")
    if not len(top_N) or bottom_N.sum() == 0:
        return Interval(np.nan, np.nan, np.nan, len(top_N))
    drawn, num_speakers = by_speaker(np.stack([top_N, bottom_N]), speakers)
    top_R, bottom_R = _resampled_sums(drawn, num_resamples, seed)
    ratios_R = top_R[bottom_R > 0] / bottom_R[bottom_R > 0]
    low = high = np.nan
    if len(top_N) > 1 and len(ratios_R) >= MIN_USABLE * num_resamples:
        low, high = _percentiles(ratios_R, confidence)
    return Interval(float(top_N.sum() / bottom_N.sum()), low, high, len(top_N), num_speakers)


def bootstrap_wer(errors: ArrayLike, words: ArrayLike, **options: Any) -> Interval:
    """Word error rate in percent with its interval, from errors and reference words per utterance (N,)."""
    return bootstrap_interval(100.0 * np.asarray(errors, dtype=np.float64), words, **options)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, **options: Any) -> Interval:
    """The mean of `a - b` over utterances that both systems saw, in the same order, with its interval.

    Raises:
        ValueError: the two arrays differ in length.
    """
    a_N, b_N = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a_N.shape != b_N.shape:
        raise ValueError(f"not paired: {a_N.shape} and {b_N.shape} values")
    return bootstrap_interval(a_N - b_N, **options)


def paired_bootstrap_wer(
    errors_a: ArrayLike, errors_b: ArrayLike, words: ArrayLike, **options: Any
) -> Interval:
    """Difference in word error rate, `a - b`, in points over the same utterances, with its interval."""
    difference_N = np.asarray(errors_a, dtype=np.float64) - np.asarray(errors_b, dtype=np.float64)
    return bootstrap_wer(difference_N, words, **options)


def relative_reduction(
    errors_new: ArrayLike,
    errors_old: ArrayLike,
    *,
    speakers: Sequence[str] | None = None,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 1,
) -> Interval:
    """By how many percent `new` makes fewer errors than `old` on the same utterances, with its interval."""
    new_N, old_N = np.asarray(errors_new, dtype=np.float64), np.asarray(errors_old, dtype=np.float64)
    ratio = bootstrap_interval(
        new_N, old_N, speakers=speakers, num_resamples=num_resamples, confidence=confidence, seed=seed
    )
    low, high = 100 * (1 - ratio.high), 100 * (1 - ratio.low)
    return Interval(100 * (1 - ratio.estimate), low, high, ratio.count, ratio.speakers)


def difference_of_wers(
    a: tuple[ArrayLike, ArrayLike],
    b: tuple[ArrayLike, ArrayLike],
    *,
    num_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 1,
) -> Interval:
    """Difference in word error rate, `a - b`, in points, between two sets of other utterances.

    Its ends are nan where those of the rate of one set would be (see `bootstrap_interval`).

    Args:
        a: errors and reference words per utterance of one set, (N,) each.
        b: of the other set.
        num_resamples: draws of as many utterances from each set as it has.
        confidence: probability that the interval covers.
        seed: of the draws.
    """
    rates, estimates = [], []
    for offset, (errors, words) in enumerate((a, b)):
        values = np.stack([100.0 * np.asarray(errors, dtype=np.float64), np.asarray(words, dtype=np.float64)])
        if not values[1].sum():
            return Interval(np.nan, np.nan, np.nan, 0)
        top_R, bottom_R = _resampled_sums(values, num_resamples, seed + offset)
        # A draw without a word has no rate.
        rates.append(np.divide(top_R, bottom_R, out=np.full_like(top_R, np.nan), where=bottom_R > 0))
        estimates.append(float(values[0].sum() / values[1].sum()))
    differences_R = rates[0] - rates[1]
    usable_R = differences_R[np.isfinite(differences_R)]
    counts = [len(np.asarray(words)) for _, words in (a, b)]
    low = high = np.nan
    if min(counts) > 1 and len(usable_R) >= MIN_USABLE * num_resamples:
        low, high = _percentiles(usable_R, confidence)
    return Interval(estimates[0] - estimates[1], low, high, sum(counts))


def _resampled_sums(values: Floats, num_resamples: int, seed: int, block: int = 256) -> Floats:
    """Sums of each row of `values` (rows, N) over `num_resamples` draws of N columns: (rows, R)."""
    generator = np.random.default_rng(seed)
    count = values.shape[1]
    sums = []
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        draws = generator.integers(count, size=(rows, count))
        sums.append(values[:, draws].sum(axis=-1))
    return np.concatenate(sums, axis=1)


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
