"""What the report says about a comparison, for wins, losses and draws."""

import math

import pytest

from kdasr.evaluation.latency_summary import FirstWordGain
from kdasr.evaluation.statistics import Interval
from kdasr.report.results import PairedGain
from kdasr.report.wording import headline, number, signed, verdict

NAMES = {"streaming": "streaming from scratch"}
NOT_MEASURED = Interval(math.nan, math.nan, math.nan, 0)


def _comparison(wer: Interval, first: Interval, baseline: str = "streaming", part: str = "p") -> PairedGain:
    return PairedGain("two-stage", baseline, part, wer, FirstWordGain(first, 0.9), first, 8.0, 10.0, 100, 100)


def _headline(wer: Interval, first: Interval) -> str:
    return headline([_comparison(wer, first)], ["p"], "two-stage", NAMES).replace("\u00a0", " ")


def test_gain_and_loss_are_the_same_sentence_with_the_signs_turned() -> None:
    gain = _headline(Interval(20.0, 5.0, 35.0, 9), Interval(30.0, 10.0, 50.0, 9))
    loss = _headline(Interval(-20.0, -35.0, -5.0, 9), Interval(-30.0, -50.0, -10.0, 9))
    assert "20.0 % fewer word errors than streaming from scratch" in gain
    assert "95 % interval 5.0 to 35.0 %" in gain and "30 ms earlier (10 to 50 ms)" in gain
    assert loss == gain.replace("fewer", "more").replace("earlier", "later")


def test_interval_with_zero_is_called_undecided() -> None:
    text = _headline(Interval(2.0, -3.0, 7.0, 9), Interval(-1.0, -4.0, 2.0, 9))
    assert "−3.0 to 7.0 %, so undecided" in text and "1 ms later (−2 to 4 ms, so undecided)" in text


def test_draw_and_missing_latency_are_said() -> None:
    text = _headline(Interval(0.0, -3.0, 7.0, 9), NOT_MEASURED)
    assert "as many word errors as streaming" in text and "latency was not measured" in text
    assert "same time" in _headline(Interval(0.0, -3.0, 7.0, 9), Interval(0.2, -3.0, 3.0, 9))


def test_headline_takes_the_first_part_and_every_baseline() -> None:
    some = Interval(1.0, 0.5, 2.0, 9)
    found = [_comparison(some, some, baseline, part) for part in "ab" for baseline in ("streaming", "other")]
    text = headline(found, ["b", "a"], "two-stage", {"streaming": "the first"})
    assert (
        text.startswith("On b,")
        and "than the first" in text
        and "than other" in text
        and text.count("fewer word errors") == 2
    )
    assert "no comparison of mine" in headline([], ["a"], "mine")
    assert "no method" in headline(found, ["a"], "")


def test_baselines_that_would_be_called_the_same_keep_their_names() -> None:
    some = Interval(1.0, 0.5, 2.0, 9)
    found = [_comparison(some, some, baseline) for baseline in ("one", "two")]
    text = headline(found, ["p"], "two-stage", dict.fromkeys(("one", "two"), "streaming from scratch"))
    assert "than one" in text and "than two" in text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.04, 1, "0.0"), (-1.25, 1, "−1.2"), (12345.6, 0, "12\u202f346"), (None, 2, "–"), (math.nan, 0, "–")],
)
def test_numbers(value: float | None, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_signs_and_verdicts() -> None:
    assert [signed(value) for value in (1.0, -1.0, 0.0)] == ["+1.0", "−1.0", "0.0"]
    assert verdict(Interval(3.0, 1.0, 5.0, 9), "good", "bad") == "good"
    assert verdict(Interval(-3.0, -5.0, -1.0, 9), "good", "bad") == "bad"
    assert verdict(Interval(3.0, -1.0, 5.0, 9), "good", "bad") == "undecided"
    assert verdict(NOT_MEASURED, "good", "bad") == "not measured"
