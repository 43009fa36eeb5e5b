"""Numbers and findings in words. A loss is stated exactly as a gain is."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.latency_summary import FirstWordGain
from kdasr.evaluation.statistics import MIN_SPEAKERS, Interval
from kdasr.report.experiment import SystemRecord
from kdasr.report.results import PairedGain, ResultRow

NOTHING = "–"
"""Stands for a number that was not measured."""

_BAD = (FirstToken.WRONG, FirstToken.PREMATURE, FirstToken.MISSING)

THOUSANDS = "\u202f"
"""Separates thousands: a narrow space that does not break."""

ONE_RUN = (
    "What is undecided here takes more speech, or more than one seed: docs/what_distillation_buys.md says "
    "what several seeds of every method have shown."
)


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


def baseline_name(system: SystemRecord) -> str:
    """What a baseline is, as far as its configuration says: where it starts; else its name."""
    if not system.config or system.waits_for_end or Path(system.init_from or "").suffix:
        return system.name
    origin = f"the {Path(system.init_from).name}’s weights" if system.init_from else "scratch"
    return f"streaming from {origin}"


def headline(
    comparisons: Sequence[PairedGain], parts: Sequence[str], row: str, names: Mapping[str, str] | None = None
) -> str:
    """One sentence: `row` against its baselines on the first part where it has been compared.

    Args:
        comparisons: all that there are.
        parts: in the order of preference.
        row: the method; empty: none is known.
        names: what baselines are called in it, where not by their names.
    """
    names = names or {}
    if not row:
        return "This report compares no method with a baseline: no configuration names them."
    for part in parts:
        found = [c for c in comparisons if c.row == row and c.part == part]
        if found:
            findings = [finding(c, _unique_name(c, found, names)) for c in found]
            sentence = f"On {part}, the {row} student {'; it '.join(findings)}."
            undecided = any(0.0 in change for c in found for change in (c.wer, c.first_word.gain))
            return f"{sentence} {ONE_RUN}" if undecided else sentence
    return (
        f"This report holds no comparison of {row} with a streaming baseline: "
        "both have to be decoded on a common part."
    )


def _unique_name(comparison: PairedGain, among: Sequence[PairedGain], names: Mapping[str, str]) -> str:
    """What its baseline is called; its own name, where another one would be called the same."""
    called = [names.get(other.baseline, other.baseline) for other in among]
    name = names.get(comparison.baseline, comparison.baseline)
    return name if called.count(name) == 1 else comparison.baseline


def finding(comparison: PairedGain, baseline: str) -> str:
    """What a comparison says, as a verb phrase."""
    return f"{_errors(comparison, baseline)} and {_first_word(comparison.first_word)}"


def rate_name(measures: Iterable[str]) -> str:
    """What the error rates of some results are called: they are of words, of characters, or of both."""
    found = set(measures)
    if found == {"cer"}:
        return "character error rate"
    return "error rate (words or characters)" if "cer" in found else "word error rate"


def readable(text: str) -> Callable[[str], str]:
    """How to show the words of a text: a text in capitals in lower case, any other text as it is."""
    return str.lower if text.isascii() and text.isupper() else str


def _errors(comparison: PairedGain, baseline: str) -> str:
    change = comparison.wer
    rate, kind = ("CER", "character") if comparison.measure == "cer" else ("WER", "word")
    wers = f"{rate} {number(comparison.row_wer, 1)} against {percent(comparison.baseline_wer)}"
    if not math.isfinite(change.estimate):
        return f"cannot be compared in relative terms with {baseline}, which makes no errors ({wers}),"
    if change.estimate == 0:
        span = f"95\u00a0% interval {interval(change.low, change.high)}\u00a0%"
        return f"makes as many {kind} errors as {baseline} ({wers}; {span})"
    less = change.estimate > 0
    low, high = (change.low, change.high) if less else (-change.high, -change.low)
    span = f"95\u00a0% interval {interval(low, high)}\u00a0%{_doubt(change)}"
    more = "fewer" if less else "more"
    return f"makes {percent(abs(change.estimate))} {more} {kind} errors than {baseline} ({wers}; {span})"


def resampled_units(intervals: Iterable[Interval]) -> str:
    """What some intervals are over: so many speakers, or utterances."""
    numbers = sorted({interval.speakers for interval in intervals})
    if not numbers or numbers == [0]:
        return f"utterances (fewer than {MIN_SPEAKERS} known speakers)"
    if 0 in numbers:
        return "speakers, or utterances where too few speakers are known"
    spoken = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{spoken} speakers"


def _first_word(found: FirstWordGain) -> str:
    gain = found.gain
    if not math.isfinite(gain.estimate):
        return "its first-word latency was not measured"
    where = f" on the {percent(100 * (found.coverage or 0.0))} of utterances whose first word both have right"
    early = gain.estimate > 0
    low, high = (gain.low, gain.high) if early else (-gain.high, -gain.low)
    span = f"{interval(low, high, 0)}\u00a0ms{_doubt(gain)}"
    if round(gain.estimate) == 0:
        return f"shows its first word at the same time ({span}){where}"
    size = f"{number(abs(gain.estimate))}\u00a0ms"
    return f"shows its first word {size} {'earlier' if early else 'later'} ({span}){where}"


def _doubt(change: Interval) -> str:
    return ", so undecided" if 0.0 in change else ""


def verdict(change: Interval, better: str, worse: str) -> str:
    """One word for a comparison's cell: `better`, `worse`, or undecided when the interval includes zero."""
    if not math.isfinite(change.estimate):
        return "not measured"
    if 0.0 in change:
        return "undecided"
    return better if change.estimate > 0 else worse
