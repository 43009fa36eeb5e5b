"""What the scored streams of a part say together, beside the same utterances one by one."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import ceil, isfinite
from typing import Any

from kdasr.evaluation.long_form import MINUTE, Record
from kdasr.evaluation.statistics import (
    Interval,
    bootstrap_wer,
    difference_of_wers,
    paired_bootstrap,
    paired_bootstrap_wer,
    relative_reduction,
    summarize,
)

END_MINUTES = 5
"""The first and the last so many minutes of a stream are compared."""
_KINDS = ("sub", "del", "ins")

Scores = Mapping[str, Any]
"""One utterance of a record."""


def summarize_streams(
    records: Sequence[Record], single: Mapping[str, Scores], shifted: Mapping[str, Scores]
) -> dict[str, Any]:
    """Errors and latencies of streams, and of their utterances one by one.

    Intervals are bootstrapped over utterances, and differences paired by utterance. They cover the choice of
    utterances; that the errors of neighbors in a stream may come together is not in them.

    Args:
        records: of `score_stream`, the streams of one condition.
        single: by id, each utterance of these streams scored by itself.
        shifted: so, but begun anywhere in a chunk.

    Returns:
        The fields of an entry of `long_form` in `results.json` that are measured; word error rates in
        percent, None without a reference word.
    """
    scores = [score for record in records for score in record["utterances"]]
    alone = [single[score["id"]] for score in scores]
    words = [score["errors"]["words"] for score in scores]
    errors, alone_errors = _totals(scores), _totals(alone)
    shifted_errors = _totals([shifted[score["id"]] for score in scores])
    counts = {kind: sum(score["errors"][kind] for score in scores) for kind in _KINDS}
    wer, single_wer, shifted_wer = (
        bootstrap_wer(wrong, words) for wrong in (errors, alone_errors, shifted_errors)
    )
    increase, shifted_increase = (
        paired_bootstrap_wer(errors, wrong, words) for wrong in (alone_errors, shifted_errors)
    )
    less = relative_reduction(errors, alone_errors)
    return {
        "wer": _finite(wer.estimate),
        "wer_ci": _limits(wer),
        "substitutions": counts["sub"],
        "deletions": counts["del"],
        "insertions": counts["ins"],
        "words": sum(words),
        "single_wer": _finite(single_wer.estimate),
        "single_wer_ci": _limits(single_wer),
        "wer_increase": _finite(increase.estimate),
        "wer_increase_ci": _limits(increase),
        "shifted_wer": _finite(shifted_wer.estimate),
        "shifted_wer_ci": _limits(shifted_wer),
        "shifted_increase": _finite(shifted_increase.estimate),
        "shifted_increase_ci": _limits(shifted_increase),
        "relative_increase": _finite(-less.estimate),
        "relative_increase_ci": [_finite(-less.high), _finite(-less.low)],
        **_latencies(scores, alone),
        "wer_by_minute": _by_minute(records),
        "ends": _ends(records),
        "num_utterances": len(scores),
        "num_streams": len(records),
        "num_segments": sum(len(record["segments"]) for record in records),
        "audio_seconds": round(sum(record["duration"] for record in records), 3),
        "longest_seconds": max(record["duration"] for record in records),
        "onset": "alignment" if any(score["aligned"] for score in scores) else "energy",
    }


def _totals(scores: Sequence[Scores]) -> list[int]:
    return [sum(score["errors"][kind] for kind in _KINDS) for score in scores]


def _latencies(scores: Sequence[Scores], alone: Sequence[Scores]) -> dict[str, Any]:
    """First words and emission delays; where some utterances have word times, of those only."""
    aligned = any(score["aligned"] for score in scores)
    pairs = [
        (score, other)
        for score, other in zip(scores, alone, strict=True)
        if score["ref"] and (score["aligned"] or not aligned)
    ]
    both = [
        (score["first_word_ms"], other["first_word_ms"])
        for score, other in pairs
        if score["first_word_ms"] is not None and other["first_word_ms"] is not None
    ]
    later = paired_bootstrap([a for a, _ in both], [b for _, b in both])
    measured: dict[str, Any] = {}
    for prefix, side in (("", 0), ("single_", 1)):
        chosen = [pair[side] for pair in pairs]
        first = [score["first_word_ms"] for score in chosen if score["first_word_ms"] is not None]
        delays = [delay for score in chosen for delay in score["emission_delay_ms"]]
        measured |= {
            f"{prefix}first_word_ms": summarize(first),
            f"{prefix}first_word_coverage": len(first) / len(chosen) if chosen else None,
            f"{prefix}emission_delay_ms": summarize(delays),
        }
    return measured | {
        "first_word_later_ms": _finite(later.estimate),
        "first_word_later_ci": _limits(later),
        "num_first_word_pairs": len(both),
    }


def _by_minute(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Errors in each minute of the streams, all streams together."""
    empty = {"sub": 0, "ins": 0, "del": 0, "words": 0}
    table = []
    for number, cells in enumerate(zip_longest(*(record["minutes"] for record in records), fillvalue=empty)):
        total = {kind: sum(cell[kind] for cell in cells) for kind in empty}
        wrong = sum(total[kind] for kind in _KINDS)
        table.append(
            {
                "minute": number + 1,
                "wer": 100.0 * wrong / total["words"] if total["words"] else None,
                "substitutions": total["sub"],
                "deletions": total["del"],
                "insertions": total["ins"],
                "words": total["words"],
            }
        )
    return table


def _ends(records: Sequence[Record]) -> dict[str, Any] | None:
    """The last minutes of the streams against the first; None where no stream has twice as many."""
    first: list[Scores] = []
    last: list[Scores] = []
    for record in records:
        if record["duration"] >= 2 * END_MINUTES * MINUTE:
            first += _between(record, 0.0, END_MINUTES * MINUTE)
            last += _between(record, record["duration"] - END_MINUTES * MINUTE, record["duration"])
    sides = [(_totals(side), [score["errors"]["words"] for score in side]) for side in (last, first)]
    change = difference_of_wers(*sides)
    if not isfinite(change.estimate):
        return None
    last_wer, first_wer = (100.0 * sum(errors) / sum(words) for errors, words in sides)
    return {
        "minutes": END_MINUTES,
        "first_wer": first_wer,
        "last_wer": last_wer,
        "last_minute": ceil(max(record["duration"] for record in records) / MINUTE),
        "difference": change.estimate,
        "difference_ci": _limits(change),
    }


def _between(record: Record, start: float, end: float) -> Iterator[Scores]:
    return (score for score in record["utterances"] if start <= score["start"] < end)


def _limits(interval: Interval) -> list[float | None]:
    return [_finite(interval.low), _finite(interval.high)]


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
