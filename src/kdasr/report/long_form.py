"""Systems on utterances joined into long streams: rows and tables, beside the same utterances one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kdasr.common.errors import UserError
from kdasr.report.experiment import SUMMARY, long_form_path
from kdasr.report.fields import (
    Field,
    is_count,
    is_flag,
    is_interval,
    is_measured,
    is_number,
    is_summary,
    is_text,
    take_fields,
)
from kdasr.report.records import SystemRecord
from kdasr.report.results import part_order
from kdasr.report.wording import interval, number, signed

_KINDS = ("substitution", "deletion", "insertion")
_CELL = ("minute", "substitutions", "deletions", "insertions", "words")
"""Counts of one minute."""


def _is_by_minute(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(cell, Mapping) and all(is_count(cell.get(name)) for name in _CELL) for cell in value
    )


_NOT_MEASURED = {"mean": None}
_FIELDS = (
    *(Field(name, is_number) for name in ("gap_s", "minutes")),
    Field("noise", is_text),
    Field("endpoints", is_flag),
    Field("wer", is_measured),
    *(Field(f"{kind}s", is_count) for kind in _KINDS),
    *(Field(name, is_count) for name in ("words", "num_utterances")),
    *(Field(name, is_interval, [None, None]) for name in ("wer_ci", "wer_increase_ci")),
    *(
        Field(name, is_measured, None)
        for name in ("single_wer", "shifted_wer", "wer_increase", "relative_increase")
    ),
    *(Field(f"{prefix}first_word_coverage", is_measured, None) for prefix in ("", "single_")),
    *(Field(f"{prefix}first_word_ms", is_summary, _NOT_MEASURED) for prefix in ("", "single_")),
    Field("emission_delay_ms", is_summary, _NOT_MEASURED),
    Field("wer_by_minute", _is_by_minute, []),
    Field("onset", is_text, ""),
)
"""Of a condition, what is shown."""


@dataclass(frozen=True)
class LongFormRow:
    """One system on one part under one condition."""

    system: str
    part: str
    values: Mapping[str, Any]
    """An entry of `conditions` in the summary that `kdasr decode --long-form` writes."""
    lacking: Sequence[str] = ()
    """Fields that it did not have: it is of an older version. `values` says that they were not measured."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def as_json(self) -> dict[str, Any]:
        """The entry in `results.json`."""
        return {"system": self.system, "part": self.part, **self.values}

    @property
    def pause(self) -> str:
        """Length and noise of the pauses, in words."""
        return f"{self['gap_s']:g} s {self['noise']}" if self["gap_s"] else "none"


def long_form_rows(systems: Sequence[SystemRecord]) -> list[LongFormRow]:
    """A row per system, part and condition; none where nothing was decoded in long form.

    Raises:
        UserError: a damaged summary.
    """
    return [
        row
        for system in systems
        for part in part_order(list(system.long_form))
        for row in summary_rows(
            system.long_form[part], system.name, part, str(long_form_path(system.folder, part))
        )
    ]


def summary_rows(
    summary: Mapping[str, Any], system: str, part: str, where: str = SUMMARY
) -> list[LongFormRow]:
    """A row per condition of one summary. What an older version did not measure is not measured in it.

    Args:
        summary: as it was read.
        system: whose it is.
        part: of which it is.
        where: the file, for messages.

    Raises:
        UserError: it is damaged.
    """
    conditions = summary.get("conditions")
    if not isinstance(conditions, list):
        raise UserError(f"{where}: no list of 'conditions': damaged; decode again")
    taken = [
        take_fields(condition, _FIELDS, f"{where}, condition {number}")
        for number, condition in enumerate(conditions, start=1)
    ]
    return [LongFormRow(system, part, values, lacking) for values, lacking in taken]


def first_word(row: LongFormRow, which: str = "") -> str:
    """Mean latency of the first words, and the share of utterances that have theirs right."""
    coverage = row[f"{which}first_word_coverage"]
    share = "–" if coverage is None else f"{100 * coverage:.0f} %"
    return f"{number(row[f'{which}first_word_ms']['mean'])}, {share}"


def increase(row: LongFormRow) -> str:
    """How many more errors than one by one, in percent of those."""
    value = row["relative_increase"]
    return "–" if value is None else f"{signed(value, 0)} %"


def counts(rows: Sequence[LongFormRow]) -> str:
    """Utterances of a part, or from how many to how many."""
    numbers = sorted({row["num_utterances"] for row in rows})
    return number(numbers[0]) if len(numbers) == 1 else f"{number(numbers[0])} to {number(numbers[-1])}"


_COLUMNS: tuple[tuple[str, Callable[[LongFormRow], str]], ...] = (
    ("end-\npoints", lambda row: "yes" if row["endpoints"] else "no"),
    ("WER %", lambda row: number(row["wer"], 2)),
    ("sub/del/ins", lambda row: "/".join(str(row[f"{kind}s"]) for kind in _KINDS)),
    ("one\nby one", lambda row: number(row["single_wer"], 2)),
    ("shifted", lambda row: number(row["shifted_wer"], 2)),
    ("points\nmore", lambda row: signed(row["wer_increase"], 1)),
    ("95 %", lambda row: interval(*row["wer_increase_ci"])),
    ("first word\nin stream", first_word),
    ("first word\none by one", lambda row: first_word(row, "single_")),
    ("word\ndelay", lambda row: number(row["emission_delay_ms"]["mean"])),
)


def long_form_table(rows: Sequence[LongFormRow]) -> Table:
    """Every row for the terminal, a section per system and part."""
    onsets = " or ".join(sorted({row["onset"] for row in rows if row["onset"]}))
    caption = (
        "One by one: the same utterances as streams of their own; shifted: begun anywhere in a chunk. First "
        f"word: mean ms from its onset{f' (by {onsets})' if onsets else ''}, and the share of utterances "
        "that have it right."
    )
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=caption,
        caption_justify="left",
    )
    table.add_column("pause")
    for name, _ in _COLUMNS:
        table.add_column(name, justify="right")
    sections: dict[tuple[str, str], list[LongFormRow]] = {}
    for row in rows:
        sections.setdefault((row.part, row.system), []).append(row)
    for (part, system), section in sections.items():
        table.add_row(f"[bold]{part}, {system}[/bold]")
        for row in section:
            cells = [cell(row) for _, cell in _COLUMNS]
            table.add_row(f"  {row.pause}", *cells, end_section=row is section[-1])
    return table
