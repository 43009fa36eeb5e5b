"""Bootstrap over seeds and utterances where the answer is known."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from kdasr.evaluation.statistics import paired_bootstrap
from kdasr.study.seeds import (
    Draws,
    crossed_interval,
    gain_over_seeds,
    gap_closed,
    reduction_over_seeds,
    wer_over_seeds,
)

BASE = np.array([[4.0, 2.0, 6.0], [2.0, 8.0, 2.0]])


def triple(interval: object) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high  # type: ignore[attr-defined]


def test_constant_ratios_are_exact_whatever_is_drawn() -> None:
    assert triple(reduction_over_seeds(BASE / 2, BASE)) == pytest.approx((50, 50, 50))
    assert triple(reduction_over_seeds(BASE, BASE)) == (0, 0, 0)
    assert triple(wer_over_seeds(BASE, 20 * BASE)) == pytest.approx((5, 5, 5))
    assert triple(gain_over_seeds(BASE - 30, BASE)) == pytest.approx((30, 30, 30))
    assert triple(gap_closed(0.7 * BASE, BASE, 0.5 * BASE)) == pytest.approx((0.6, 0.6, 0.6))


def test_estimates_sum_errors_before_they_divide() -> None:
    assert reduction_over_seeds(np.array([[1.0, 9.0]]), np.array([[10.0, 10.0]])).estimate == pytest.approx(
        50
    )
    assert wer_over_seeds(np.array([[1.0], [2.0]]), np.array([[10.0], [10.0]])).estimate == pytest.approx(15)
    # (base - row) / (base - topline) = (20 - 17) / (20 - 5)
    row, base, topline = np.array([[8.0, 9.0]]), np.array([[12.0, 8.0]]), np.array([[1.0, 4.0]])
    assert gap_closed(row, base, topline).estimate == pytest.approx(0.2)


def test_the_share_of_the_gap_may_leave_zero_to_one() -> None:
    assert gap_closed(2 * BASE, BASE, 0.5 * BASE).estimate == pytest.approx(-2)
    assert gap_closed(0.25 * BASE, BASE, 0.5 * BASE).estimate == pytest.approx(1.5)
    assert reduction_over_seeds(2 * BASE, BASE).estimate == pytest.approx(-100)


def test_without_a_gap_there_is_no_share_of_it() -> None:
    assert math.isnan(gap_closed(BASE, BASE, BASE).estimate)
    assert math.isnan(gap_closed(BASE, BASE, 2 * BASE).estimate)
    # A gap in most draws only: an estimate, but no interval.
    base, topline = np.array([[0.0, 3.0]]), np.array([[2.0, 0.0]])
    doubtful = gap_closed(base, base, topline)
    assert doubtful.estimate == 0 and math.isnan(doubtful.low)


def test_one_seed_gives_the_interval_over_utterances() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(5, 10, size=(2, 400))
    ours = gain_over_seeds(a[None], b[None])
    plain = paired_bootstrap(b, a)
    assert ours.estimate == pytest.approx(plain.estimate)
    assert (ours.low, ours.high) == pytest.approx((plain.low, plain.high), abs=0.15)


def test_seeds_that_disagree_widen_the_interval() -> None:
    # No variation over utterances: the mean of draws from {0, 0, 12} is 0 with probability 8 / 27.
    seeds = np.array([[0.0] * 50, [0.0] * 50, [12.0] * 50])
    interval = gain_over_seeds(np.zeros_like(seeds), seeds, Draws(num_resamples=20000))
    assert triple(interval) == pytest.approx((4, 0, 12))
    quarter = gain_over_seeds(np.zeros_like(seeds), seeds, Draws(num_resamples=20000, confidence=0.3))
    # The middle 30 % (quantiles 0.35 and 0.65): P(0) = 0.296, P(4) = 0.444, so both ends are 4.
    assert triple(quarter) == pytest.approx((4, 4, 4))


def test_all_seeds_of_a_draw_see_the_same_utterances() -> None:
    """What only utterances cause does not average out over seeds: three copies of a seed are one seed."""
    values = np.random.default_rng(1).exponential(size=(1, 60))
    one = gain_over_seeds(np.zeros_like(values), values)
    three = np.repeat(values, 3, axis=0)
    copies = gain_over_seeds(np.zeros_like(three), three)
    assert copies.high - copies.low == pytest.approx(one.high - one.low, rel=0.08)
    independent = np.random.default_rng(2).exponential(size=(3, 60))
    spread = gain_over_seeds(np.zeros_like(independent), independent)
    assert spread.high - spread.low < 0.9 * (one.high - one.low)


def test_systems_are_paired_by_seed_and_utterance() -> None:
    generator = np.random.default_rng(3)
    base = generator.normal(scale=10, size=(3, 100)) + generator.normal(scale=10, size=(3, 1))
    row = base - 1 + generator.normal(scale=0.1, size=base.shape)
    paired = gain_over_seeds(row, base)
    swapped = gain_over_seeds(row[::-1], base)
    assert paired.low > 0.9 and paired.high < 1.1
    assert swapped.high - swapped.low > 20 * (paired.high - paired.low)


def test_the_interval_has_its_coverage_with_many_seeds() -> None:
    generator = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        effects = generator.normal(size=(12, 1)) + generator.normal(size=(1, 40))
        values = 1 + effects + 0.5 * generator.normal(size=(12, 40))
        hits += 1.0 in gain_over_seeds(np.zeros_like(values), values, Draws(400, 0.8, trial))
    assert 0.70 < hits / 200 < 0.92


def test_only_utterances_where_both_show_a_token_count() -> None:
    nan = math.nan
    row = np.array([[100.0, nan, 50.0], [100.0, 7.0, nan]])
    base = np.array([[140.0, 900.0, nan], [160.0, nan, nan]])
    gain = gain_over_seeds(row, base)
    assert gain.estimate == pytest.approx(50) and gain.count == 1
    assert math.isnan(gain_over_seeds(np.full((2, 3), nan), base).estimate)


def test_shapes_are_checked_and_nothing_gives_nothing() -> None:
    with pytest.raises(ValueError, match="seeds, utterances"):
        crossed_interval(BASE, lambda sums: sums[0])
    assert math.isnan(wer_over_seeds(np.zeros((2, 0)), np.zeros((2, 0))).estimate)
    of_one = wer_over_seeds(BASE[:, :1], 0 * BASE[:, :1] + 10)
    assert math.isfinite(of_one.estimate) and math.isnan(of_one.low)
    assert math.isnan(reduction_over_seeds(BASE, 0 * BASE).estimate)


def test_the_explanation_of_results_draws_what_the_report_draws(tmp_path: Path) -> None:
    place = Path(__file__).parents[2] / "tools" / "explain_results.py"
    spec = importlib.util.spec_from_file_location("explain_results", place)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    generator = np.random.default_rng(7)
    errors = {row: generator.integers(1, 9, size=(2, 6)).repeat(4, axis=1) for row in ("new", "old")}
    for row, errors_SN in errors.items():
        for seed, errors_N in enumerate(errors_SN, start=1):
            lines = [
                {"id": f"u{place:02}", "speaker": f"s{place // 4}", "missed": int(wrong), "ref_words": [1]}
                for place, wrong in enumerate(errors_N)
            ]
            path = tmp_path / f"seed-{seed}" / row / "decode" / "streaming" / "dev" / "utterances.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = tool.compare(tmp_path, ("new", "old"), "dev", lambda one: one["missed"], reduction_over_seeds)
    speakers = [f"s{place // 4}" for place in range(24)]
    new, old = (errors[row].astype(float) for row in ("new", "old"))
    wide, narrow = (reduction_over_seeds(new, old, Draws(speakers=names)) for names in (speakers, None))
    assert said == f"{wide.estimate:+.1f} ({wide.low:+.1f} to {wide.high:+.1f})"
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
