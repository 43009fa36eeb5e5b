"""The log of a training as typed rows, and files of lines of JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines


@dataclass(frozen=True)
class MetricsRow:
    """One line of `metrics.jsonl`."""

    split: str
    stage: str
    step: int
    """Optimizer step, all stages counted."""
    stage_start: int
    """The step after which this row's stage began."""
    values: dict[str, float]
    """Terms by name, and `total`, `wer` and `cer` (percent) where present."""


def read_metrics(path: Path) -> list[MetricsRow]:
    """Training and validation rows by step; a step logged twice (after a resume) counts once.

    A last line that was cut short by a kill is left out.

    Raises:
        UserError: a line that is not one of a log of training.
    """
    rows: dict[tuple[str, int], MetricsRow] = {}
    if not path.is_file():
        return []
    for number, line in json_lines(path, allow_cut=True):
        try:
            row = _metrics_row(line)
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a line of a log of training ({error!r})") from None
        rows[row.split, row.step] = row
    return sorted(rows.values(), key=lambda row: row.step)


def _metrics_row(line: Mapping[str, Any]) -> MetricsRow:
    values = {name: float(value) for name, value in (line.get("terms") or {}).items() if value is not None}
    values |= {name: float(line[name]) for name in ("total", "wer", "cer") if line.get(name) is not None}
    step = int(line.get("step", 0))
    start = step - int(line.get("stage_step") or step)
    return MetricsRow(str(line.get("split")), str(line.get("stage", "")), step, start, values)


def json_lines(path: Path, *, allow_cut: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and object of each line of a file.

    Args:
        path: of the file.
        allow_cut: the last line may be one that was cut short by a kill, and is left out then.

    Raises:
        UserError: a line that is not a JSON object.
    """
    lines = text_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if allow_cut and number == len(lines):
                return
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: expected an object, found {type(row).__name__}")
        yield number, row
