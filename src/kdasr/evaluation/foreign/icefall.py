"""icefall's `recogs-*.txt` with timestamps.

Lines are `ID:<tab>ref=[...]`, `ID:<tab>hyp=['A', 'B']` and `ID:<tab>timestamp_hyp=[...]`; words may also be
one string. A time is that of a word's first piece, or a pair of its begin and end. With single times the last
piece of a word is not known, and its first one stands for it: latencies are then lower bounds.
"""

import ast
from collections.abc import Container
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines
from kdasr.evaluation.foreign.base import HeardWord, Hypothesis, not_in_format, register_format

_FIELDS = ("ref", "hyp", "timestamp_ref", "timestamp_hyp")


@register_format("icefall")
def read(path: Path) -> list[Hypothesis]:
    """See the module.

    Raises:
        UserError: a line in another form, a hypothesis without a time for each word, or an utterance that
            is there twice.
    """
    words: dict[str, tuple[int, list[str]]] = {}
    times: dict[str, list[Any]] = {}
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        name, tab, rest = line.partition(":\t")
        field, equals, value = rest.partition("=")
        if not (tab and equals and field in _FIELDS):
            raise not_in_format(path, number, "icefall", "expected 'ID:<tab>hyp=[...]'")
        if field in ("ref", "timestamp_ref"):
            continue
        try:
            found = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            raise not_in_format(path, number, "icefall", f"not a list: {value.strip()[:40]}") from None
        known: Container[str] = words if field == "hyp" else times
        if name in known:
            raise UserError(f"{path}, line {number}: utterance '{name}' is there twice")
        if field == "hyp":
            words[name] = (number, found.split() if isinstance(found, str) else [str(word) for word in found])
        else:
            times[name] = list(found)
    return [_hypothesis(path, name, words[name], times) for name in words]


def _hypothesis(
    path: Path, name: str, found: tuple[int, list[str]], times: dict[str, list[Any]]
) -> Hypothesis:
    number, words = found
    known = times.get(name, [])
    if len(known) != len(words):
        raise UserError(
            f"{path}, line {number}: '{name}' has {len(words)} words and {len(known)} times: decode with "
            "timestamps of words (icefall's store_transcripts_and_timestamps)"
        )
    try:
        heard = [HeardWord(word, *_span(time)) for word, time in zip(words, known, strict=True)]
    except (TypeError, ValueError) as error:
        raise not_in_format(path, number, "icefall", error) from None
    return Hypothesis(name, heard)


def _span(time: Any) -> tuple[float, float]:
    first, last = time if isinstance(time, tuple | list) else (time, time)
    return float(first), float(last)
