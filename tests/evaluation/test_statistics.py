"""Bootstrap intervals where the answer is known."""

import tracemalloc

import numpy as np
import pytest

from kdasr.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_wer,
    difference_of_wers,
    paired_bootstrap,
    paired_bootstrap_wer,
    relative_reduction,
    summarize,
)


def test_summary_of_known_values() -> None:
    summary = summarize([float(value) for value in range(101)])
    assert summary == {"mean": 50.0, "p50": 50.0, "p90": 90.0, "p99": 99.0, "count": 101}
    assert summarize([]) == {"mean": None, "p50": None, "p90": None, "p99": None, "count": 0}


def test_a_constant_shift_is_exact() -> None:
    values = np.random.default_rng(0).normal(size=50)
    interval = paired_bootstrap(values + 3.0, values)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((3.0, 3.0, 3.0))


def test_identical_systems_do_not_differ() -> None:
    errors, words = [1, 0, 4, 2], [10, 8, 12, 9]
    interval = paired_bootstrap_wer(errors, errors, words)
    assert (interval.estimate, interval.low, interval.high) == (0.0, 0.0, 0.0)
    assert relative_reduction(errors, errors).estimate == 0.0


def test_word_error_rate_weighs_utterances_by_their_words() -> None:
    interval = bootstrap_wer([1, 9], [10, 90])
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((10.0, 10.0, 10.0))
    assert bootstrap_wer([0, 30], [50, 50]).estimate == pytest.approx(30.0)
    halved = relative_reduction([2, 6], [4, 12])
    assert (halved.estimate, halved.low, halved.high) == pytest.approx((50.0, 50.0, 50.0))


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(7)
    hits = 0
    for trial in range(300):
        sample = generator.exponential(size=80)
        hits += 1.0 in bootstrap_interval(sample, num_resamples=400, confidence=0.8, seed=trial)
    assert 0.72 < hits / 300 < 0.88


def test_speakers_are_drawn_with_all_they_said() -> None:
    """As if each had said one long utterance; without a table of all utterances and all speakers."""
    generator = np.random.default_rng(3)
    errors, words = generator.integers(0, 4, 4000), generator.integers(1, 9, 4000)
    owners = generator.permutation(np.arange(4000) % 1900)
    tracemalloc.start()
    try:
        found = bootstrap_wer(errors, words, speakers=[f"s{owner:04}" for owner in owners], num_resamples=50)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    of_speakers = [[values[owners == owner].sum() for owner in range(1900)] for values in (errors, words)]
    expected = bootstrap_wer(*of_speakers, num_resamples=50)
    assert (found.estimate, found.low, found.high) == (expected.estimate, expected.low, expected.high)
    assert (found.count, found.speakers) == (4000, 1900)
    assert peak < 10e6


def test_against_one_error_there_is_no_interval() -> None:
    """In a third of the draws the other system has no error, and the reduction is not defined."""
    old = np.zeros(40)
    old[7] = 1
    found = relative_reduction(np.ones(40), old)
    assert found.estimate == -3900 and np.isnan([found.low, found.high]).all()
    everywhere = relative_reduction(np.ones(40), np.ones(40))
    assert (everywhere.low, everywhere.high) == (0.0, 0.0)


def test_of_one_utterance_there_is_no_interval() -> None:
    """All draws are alike: an interval without width would decide what a single utterance cannot."""
    for found in (
        bootstrap_wer([1], [4]),
        paired_bootstrap([300.0], [200.0]),
        relative_reduction([1], [2], speakers=["a"]),
    ):
        assert np.isfinite(found.estimate) and np.isnan([found.low, found.high]).all() and found.count == 1


@pytest.mark.parametrize("few", [([1], [10]), ([1] + [0] * 60, [10] + [0] * 60)])
def test_an_interval_of_two_sets_needs_draws_of_both(few: tuple[list[int], list[int]]) -> None:
    """Of one utterance all draws are alike, and of one utterance among silent ones all that have a rate."""
    many = ([1, 0, 2, 1], [10, 8, 9, 7])
    assert np.isfinite([difference_of_wers(many, many).low, difference_of_wers(many, many).high]).all()
    for a, b in ((few, many), (many, few)):
        found = difference_of_wers(a, b)
        assert np.isfinite(found.estimate) and np.isnan([found.low, found.high]).all()


def test_pairing_narrows_the_interval() -> None:
    generator = np.random.default_rng(1)
    base = generator.normal(scale=10.0, size=200)
    a, b = base + generator.normal(scale=0.1, size=200), base
    paired = paired_bootstrap(a, b)
    unpaired = paired_bootstrap(a, generator.permutation(b))
    assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


def test_nothing_to_estimate_from() -> None:
    assert np.isnan(bootstrap_interval([]).estimate)
    assert np.isnan(bootstrap_wer([1, 2], [0, 0]).low)
    with pytest.raises(ValueError, match="not paired"):
        paired_bootstrap([1.0], [1.0, 2.0])
