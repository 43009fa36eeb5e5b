"""What a decoded part says in its files, checked; and what an older version of kdasr did not say yet.

What has a value for older versions (`measure`, `frame_seconds` and others) is not missed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.files import read_object
from kdasr.evaluation.first_token import FirstTokenParts
from kdasr.report.fields import Field, is_count, is_measured, is_number, is_text, take_fields

PARTS = tuple(field.name for field in fields(FirstTokenParts))
"""Of a first-token latency."""


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _is_known_count(value: Any) -> bool:
    return value is None or is_count(value)


_SHOWN = (
    Field("rtf", is_measured, None),
    Field("train_steps", _is_known_count, None),
    Field("params", _is_known_count, None),
    Field("context", is_text, ""),
    Field("onset", is_text, ""),
)
"""Of `summary.json`, what the report shows as it is."""
_USED = (
    Field("wer", is_measured, None),
    *(Field(name, _is_known_count, None) for name in ("num_utterances", "max_utterances", "wait_frames")),
    *(Field(name, is_measured, None) for name in ("frame_seconds", "calibrated_blank_penalty")),
    Field("measure", lambda value: value in ("wer", "cer"), "wer"),
    *(Field(name, _is_object, None) for name in ("calibration", "signal")),
)


def lacking_in_summary(summary: Mapping[str, Any], path: Path) -> list[str]:
    """Fields of `summary.json` that the report shows and that are not there.

    Raises:
        UserError: a value of another kind.
    """
    take_fields(summary, _USED, str(path))
    return take_fields(summary, _SHOWN, str(path))[1]


def lacking_in_utterances(rows: Iterable[Mapping[str, Any]], *, streaming: bool) -> list[str]:
    """Fields of the lines of `utterances.jsonl` that tables and plots show and that are not there."""
    rows = list(rows)
    lacking = []
    if any("confidence" not in word for row in rows for word in row.get("words") or ()):
        lacking.append("confidence")
    if streaming and any(not _has_parts(row) for row in rows):
        lacking.append("first_token_parts_ms")
    return lacking


def _has_parts(row: Mapping[str, Any]) -> bool:
    if "first_token_parts_ms" not in row:
        return False
    found = row["first_token_parts_ms"]
    return found is None or all(name in found for name in PARTS)


def parts_of_first_token(found: Any) -> dict[str, float] | None:
    """The parts of one first-token latency, in ms; None without them, or with fewer than there are now.

    Raises:
        TypeError, ValueError: not numbers by name.
    """
    if found is None or not all(name in found for name in PARTS):
        return None
    return {name: float(found[name]) for name in PARTS}


def read_gains(path: Path) -> list[dict[str, Any]]:
    """Error rates of louder and quieter copies of a part, from `gain.json`; empty without the file.

    Raises:
        UserError: it is damaged.
    """
    if not path.is_file():
        return []
    entries = read_object(path).get("results") or []
    if not isinstance(entries, list):
        raise UserError(f"{path}: 'results' is {entries!r:.40}: damaged; decode again")
    rates = (Field("wer", is_measured, None), Field("cer", is_measured, None))
    return [take_fields(entry, (Field("gain_db", is_number), *rates), str(path))[0] for entry in entries]
