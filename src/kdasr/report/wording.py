"""Numbers in words."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.statistics import MIN_SPEAKERS, Interval
from kdasr.report.results import ResultRow

NOTHING = "–"
"""Stands for a number that was not measured."""

_BAD = (FirstToken.WRONG, FirstToken.PREMATURE, FirstToken.MISSING)

THOUSANDS = "\u202f"
"""Separates thousands: a narrow space that does not break."""


def number(value: float | int | None, digits: int = 0) -> str:
    """A number with a real minus sign, or a dash when there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:,.{digits}f}".replace(",", THOUSANDS)
    if float(text.replace(THOUSANDS, "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A number with one digit and its percent sign, which stay on one line."""
    return f"{number(value, 1)}\u00a0%"


def share(value: float | None) -> str:
    """A share as a number of percent."""
    return number(None if value is None else 100 * value)


def bad_first_tokens(shares: Mapping[str, float | int | None]) -> str:
    """Percent of the first tokens that were wrong, premature and missing."""
    return " / ".join(share(shares[kind]) for kind in _BAD)


def interval(low: float, high: float, digits: int = 1) -> str:
    """`low to high`."""
    return f"{number(low, digits)} to {number(high, digits)}"


def amount(rows: Sequence[ResultRow]) -> str:
    """How many words and utterances rows are measured on, or from how many to how many."""
    words, utterances = (
        number(min(counts)) if len(counts) == 1 else f"{number(min(counts))} to {number(max(counts))}"
        for counts in ({row.num_words for row in rows}, {row.num_utterances for row in rows})
    )
    return f"{words} words in {utterances} utterances"


def signed(value: float | None, digits: int = 1) -> str:
    """A number with its sign, also when it is positive."""
    text = number(value, digits)
    return text if text[0] in "−–" or float(text.replace(THOUSANDS, "")) == 0 else f"+{text}"


def rate_name(measures: Iterable[str]) -> str:
    """What the error rates of some results are called: they are of words, of characters, or of both."""
    found = set(measures)
    if found == {"cer"}:
        return "character error rate"
    return "error rate (words or characters)" if "cer" in found else "word error rate"


def readable(text: str) -> Callable[[str], str]:
    """How to show the words of a text: a text in capitals in lower case, any other text as it is."""
    return str.lower if text.isascii() and text.isupper() else str


def resampled_units(intervals: Iterable[Interval]) -> str:
    """What some intervals are over: so many speakers, or utterances."""
    numbers = sorted({interval.speakers for interval in intervals})
    if not numbers or numbers == [0]:
        return f"utterances (fewer than {MIN_SPEAKERS} known speakers)"
    if 0 in numbers:
        return "speakers, or utterances where too few speakers are known"
    spoken = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{spoken} speakers"


def is_decided(change: Interval) -> bool:
    """Whether a difference has an interval, and all of it lies on one side of zero."""
    return change.low > 0.0 or change.high < 0.0


def verdict(change: Interval, better: str, worse: str) -> str:
    """One word for a comparison's cell: `better`, `worse`, or undecided when the interval includes zero or
    there is none.
    """
    if not math.isfinite(change.estimate):
        return "not measured"
    if not is_decided(change):
        return "undecided"
    return better if change.estimate > 0 else worse
