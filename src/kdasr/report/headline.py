"""What a report has found, in at most three sentences, and what a reader must know of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kdasr.evaluation.statistics import Interval
from kdasr.report.records import SystemRecord
from kdasr.report.results import PairedGain
from kdasr.report.wording import interval, is_decided, number, percent, resampled_units

ONE_SEED = "One seed can decide between these models, not between the methods."
_SEVERAL_SEEDS = "docs/what_distillation_buys.md has several seeds of every method."
_MOST_BASELINES = 2


@dataclass(frozen=True)
class Headline:
    """The answer of a report."""

    lead: str
    """Whether the method is better, and earlier, by how much, and how far that holds."""
    detail: str = ""
    """What the figures of `lead` rest on; empty when there is nothing to say."""


def origin(system: SystemRecord) -> str:
    """Where a streaming system starts, as far as its configuration says; else empty."""
    if not system.config or system.waits_for_end or Path(system.init_from or "").suffix:
        return ""
    return f"the {Path(system.init_from).name}’s weights" if system.init_from else "scratch"


def headline(
    comparisons: Sequence[PairedGain],
    parts: Sequence[str],
    row: str,
    origins: Mapping[str, str] | None = None,
) -> Headline:
    """`row` against its baselines on the first part where it has been compared.

    Of more than two baselines these are the first one and the last one: the plainest and the strongest.

    Args:
        comparisons: all that there are.
        parts: in the order of preference.
        row: the method; empty: none is known.
        origins: where baselines start, as `origin` says it.
    """
    if not row:
        return Headline("This report compares no method with a baseline: no configuration names them.")
    for part in parts:
        found = [c for c in comparisons if c.row == row and c.part == part]
        if found:
            shown = [found[0], *found[1:][-(_MOST_BASELINES - 1) :]]
            lead = f"On {part}, {_errors(row, shown)}. {_first_words(shown)} {ONE_SEED}"
            return Headline(lead, _detail(shown, found, parts, origins or {}))
    return Headline(
        f"This report holds no comparison of {row} with a streaming baseline: "
        "both have to be decoded on a common part."
    )


def _errors(row: str, comparisons: Sequence[PairedGain]) -> str:
    """Clauses on the word errors, one for each baseline. The first one says what the brackets hold."""
    clauses = [_first_errors(row, comparisons[0])]
    for before, comparison in pairwise(comparisons):
        more = _further_errors(comparison, repeats=is_decided(before.wer) and is_decided(comparison.wer))
        clauses.append(more)
    return "".join(clauses)


def _first_errors(row: str, comparison: PairedGain) -> str:
    change, kind, baseline = comparison.wer, _kind(comparison), comparison.baseline
    if not math.isfinite(change.estimate):
        return f"{row} cannot be compared in percent with {baseline}, which makes no {kind} errors"
    span = _span(change, "%", "95\u00a0% interval ")
    if is_decided(change):
        return f"{row} makes {_change(change)} {kind} errors than {baseline} ({span})"
    return (
        f"it is undecided whether {row} makes fewer {kind} errors than {baseline} ({_change(change)}, {span})"
    )


def _further_errors(comparison: PairedGain, *, repeats: bool) -> str:
    """With what joins it to the clause before; `repeats`: both clauses have the same form."""
    change, kind, baseline = comparison.wer, _kind(comparison), comparison.baseline
    if not math.isfinite(change.estimate):
        return f"; there is no percentage against {baseline}, which makes no {kind} errors"
    span = _span(change, "%")
    if not is_decided(change):
        return f"; against {baseline} it is undecided ({_change(change)}, {span})"
    start = f", and {_change(change)}" if repeats else f"; it makes {_change(change)} {kind} errors"
    return f"{start} than {baseline} ({span})"


def _kind(comparison: PairedGain) -> str:
    return "character" if comparison.measure == "cer" else "word"


def _change(change: Interval) -> str:
    """How many more or fewer."""
    if change.estimate == 0:
        return "as many"
    size = number(abs(change.estimate), _digits(change, "%"))
    return f"{size}\u00a0% {'fewer' if change.estimate > 0 else 'more'}"


def _first_words(comparisons: Sequence[PairedGain]) -> str:
    """A sentence."""
    found = [c for c in comparisons if math.isfinite(c.first_word.gain.estimate)]
    if not found:
        return "Its first-word latency was not measured."
    ways = {_way(c.first_word.gain) for c in found}
    if len(found) == len(comparisons) and len(ways) == 1:
        sizes = " and ".join(_milliseconds(c.first_word.gain) for c in found)
        return f"Its first word comes {sizes} {ways.pop()}."
    each = " and ".join(
        f"{_milliseconds(c.first_word.gain)} {_way(c.first_word.gain)} than that of {c.baseline}"
        for c in found
    )
    return f"Its first word comes {each}."


def _way(gain: Interval) -> str:
    return "earlier" if gain.estimate >= 0 else "later"


def _milliseconds(gain: Interval) -> str:
    doubt = "" if is_decided(gain) else ", undecided"
    return f"{number(abs(gain.estimate))}\u00a0ms ({_span(gain, 'ms')}{doubt})"


def _digits(change: Interval, unit: str) -> int:
    """As few as leave the interval of a decided difference on its side of zero."""
    if unit == "%" and abs(change.estimate) < 10:
        return 1
    nearest = min(abs(change.low), abs(change.high))
    return 1 if is_decided(change) and nearest < 0.5 else 0


def _span(change: Interval, unit: str, told: str = "") -> str:
    """The interval of a difference, with the sign of the word that names it; `told`: what it is."""
    if not (math.isfinite(change.low) and math.isfinite(change.high)):
        return "too little for an interval"
    low, high = (change.low, change.high) if change.estimate >= 0 else (-change.high, -change.low)
    return f"{told}{interval(low, high, _digits(change, unit))}\u00a0{unit}"


def _detail(
    shown: Sequence[PairedGain],
    found: Sequence[PairedGain],
    parts: Sequence[str],
    origins: Mapping[str, str],
) -> str:
    sentences = [_error_rates(shown)]
    starts = [f"{c.baseline} from {origins[c.baseline]}" for c in shown if origins.get(c.baseline)]
    if starts:
        sentences.append(f"Starts: {', '.join(starts)}.")
    over = resampled_units(c.wer for c in shown)
    coverages = [c.first_word.coverage for c in shown if c.first_word.gain.count and c.first_word.coverage]
    right = (
        f"; first words: on the {_shares(coverages)} of utterances that both have right" if coverages else ""
    )
    sentences.append(f"Intervals over {over}{right}.")
    if any(0.0 in change for c in shown for change in (c.wer, c.first_word.gain)):
        sentences.append("What is undecided takes more speech or more seeds.")
    sentences.append(_SEVERAL_SEEDS)
    rest = [
        name for name, more in (("parts", len(parts) > 1), ("baselines", len(found) > len(shown))) if more
    ]
    if rest:
        sentences.append(f"Other {' and '.join(rest)}: in the tables.")
    return " ".join(sentences)


def _error_rates(comparisons: Sequence[PairedGain]) -> str:
    first = comparisons[0]
    rates = [(first.row, first.row_wer), *((c.baseline, c.baseline_wer) for c in comparisons)]
    rate = "CER" if first.measure == "cer" else "WER"
    return f"{rate}: {', '.join(f'{name} {percent(value)}' for name, value in rates)}."


def _shares(values: Iterable[float]) -> str:
    """Percent, or from how many to how many."""
    rounded = sorted({round(100 * value) for value in values})
    low, high = number(rounded[0]), number(rounded[-1])
    return f"{low}\u00a0%" if low == high else f"{low} to {high}\u00a0%"
