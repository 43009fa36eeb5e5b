"""What the report says about a comparison, for wins, losses and draws."""

import math
import re

import pytest

from kdasr.evaluation.latency_summary import FirstWordGain
from kdasr.evaluation.statistics import Interval
from kdasr.report.headline import headline
from kdasr.report.results import PairedGain
from kdasr.report.wording import number, signed, verdict

NOT_MEASURED = Interval(math.nan, math.nan, math.nan, 0)


def _comparison(wer: Interval, first: Interval, baseline: str = "streaming", part: str = "p") -> PairedGain:
    return PairedGain("two-stage", baseline, part, wer, FirstWordGain(first, 0.9), first, 8.0, 10.0, 100, 100)


def _lead(*found: PairedGain) -> str:
    return headline(found, ["p"], "two-stage").lead.replace("\u00a0", " ")


def test_gain_and_loss_are_the_same_sentences_with_the_signs_turned() -> None:
    gain = _lead(_comparison(Interval(20.0, 5.0, 35.0, 9), Interval(30.0, 10.0, 50.0, 9)))
    loss = _lead(_comparison(Interval(-20.0, -35.0, -5.0, 9), Interval(-30.0, -50.0, -10.0, 9)))
    assert gain.startswith(
        "On p, two-stage makes 20 % fewer word errors than streaming (95 % interval 5 to 35 %). "
        "Its first word comes 30 ms (10 to 50 ms) earlier. "
    )
    assert loss == gain.replace("fewer", "more").replace("earlier", "later")


@pytest.mark.parametrize(
    ("wers", "clauses"),
    [
        (
            [Interval(20.0, 5.0, 35.0, 9), Interval(-12.0, -20.0, -0.2, 9)],
            "two-stage makes 20 % fewer word errors than a (95 % interval 5 to 35 %), "
            "and 12.0 % more than b (0.2 to 20.0 %).",
        ),
        (
            [Interval(20.0, 5.0, 35.0, 9), Interval(-150.0, -500.0, 0.0, 9)],
            "two-stage makes 20 % fewer word errors than a (95 % interval 5 to 35 %); "
            "against b it is undecided (150 % more, 0 to 500 %).",
        ),
        (
            [Interval(20.0, 5.0, 35.0, 9), Interval(-150.0, math.nan, math.nan, 9)],
            "two-stage makes 20 % fewer word errors than a (95 % interval 5 to 35 %); "
            "against b it is undecided (150 % more, too little for an interval).",
        ),
        (
            [Interval(-150.0, math.nan, math.nan, 9), Interval(20.0, 5.0, 35.0, 9)],
            "it is undecided whether two-stage makes fewer word errors than a (150 % more, too little for "
            "an interval); it makes 20 % fewer word errors than b (5 to 35 %).",
        ),
        (
            [Interval(2.0, -3.0, 7.0, 9), Interval(20.0, 5.0, 35.0, 9)],
            "it is undecided whether two-stage makes fewer word errors than a (2.0 % fewer, 95 % interval "
            "−3.0 to 7.0 %); it makes 20 % fewer word errors than b (5 to 35 %).",
        ),
        (
            [Interval(0.0, -3.0, 7.0, 9), NOT_MEASURED],
            "it is undecided whether two-stage makes fewer word errors than a (as many, 95 % interval "
            "−3.0 to 7.0 %); there is no percentage against b, which makes no word errors.",
        ),
    ],
)
def test_each_baseline_has_a_clause_that_says_whether_it_is_decided(
    wers: list[Interval], clauses: str
) -> None:
    found = [_comparison(wer, NOT_MEASURED, baseline) for wer, baseline in zip(wers, "ab", strict=True)]
    assert _lead(*found).startswith(f"On p, {clauses} Its first-word latency was not measured.")


def test_first_words_of_all_baselines_are_one_sentence() -> None:
    same, early, late = (
        Interval(0.2, -3.0, 3.0, 9),
        Interval(30.0, 10.0, 50.0, 9),
        Interval(-9.0, -12.0, 1.0, 9),
    )
    wer = Interval(20.0, 5.0, 35.0, 9)
    text = _lead(_comparison(wer, early, "a"), _comparison(wer, same, "b"))
    assert "comes 30 ms (10 to 50 ms) and 0 ms (−3 to 3 ms, undecided) earlier." in text
    text = _lead(_comparison(wer, early, "a"), _comparison(wer, late, "b"))
    assert (
        "30 ms (10 to 50 ms) earlier than that of a and 9 ms (−1 to 12 ms, undecided) later than that of b"
        in text
    )
    text = _lead(_comparison(wer, NOT_MEASURED, "a"), _comparison(wer, early, "b"))
    assert "Its first word comes 30 ms (10 to 50 ms) earlier than that of b." in text


def test_headline_has_three_sentences_on_the_first_part_and_two_baselines() -> None:
    some = Interval(1.0, 0.5, 2.0, 9)
    found = [_comparison(some, some, baseline, part) for part in "ab" for baseline in ("one", "two", "three")]
    told = headline(found, ["b", "a"], "two-stage", {"one": "scratch", "three": "the teacher’s weights"})
    assert told.lead.startswith("On b,") and len(re.findall(r"\.(?: |$)", told.lead)) == 3
    assert "than one" in told.lead and "than three" in told.lead and "two (" not in told.lead
    assert told.lead.endswith("One seed can decide between these models, not between the methods.")
    detail = told.detail.replace("\u00a0", " ")
    assert "WER: two-stage 8.0 %, one 10.0 %, three 10.0 %." in detail
    assert "Starts: one from scratch, three from the teacher’s weights." in detail
    assert "on the 90 % of utterances" in detail and "undecided" not in detail
    assert "Other parts and baselines: in the tables." in detail
    assert "no comparison of mine" in headline([], ["a"], "mine").lead
    assert "no method" in headline(found, ["a"], "").lead


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
    # A difference that has no interval, as against a baseline with a single error, decides nothing.
    assert verdict(Interval(-3.0, math.nan, math.nan, 9), "good", "bad") == "undecided"
