"""Systems on utterances joined into long streams: rows and tables, beside the same utterances one by one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kdasr.common.errors import UserError
from kdasr.report.experiment import SystemRecord
from kdasr.report.results import part_order
from kdasr.report.wording import interval, number, signed

_REQUIRED = (
    *("gap_s", "noise", "endpoints", "minutes", "wer", "wer_ci", "substitutions", "deletions", "insertions"),
    *(
        "words",
        "single_wer",
        "shifted_wer",
        "wer_increase",
        "wer_increase_ci",
        "relative_increase",
        "first_word_ms",
        "first_word_coverage",
        "wer_by_minute",
    ),
    *("single_first_word_ms", "single_first_word_coverage", "emission_delay_ms", "onset", "num_utterances"),
)

_KINDS = ("substitution", "deletion", "insertion")


@dataclass(frozen=True)
class LongFormRow:
    """One system on one part under one condition."""

    system: str
    part: str
    values: Mapping[str, Any]
    """An entry of `conditions` in the summary that `kdasr decode --long-form` writes."""

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
        UserError: a summary that lacks something.
    """
    return [
        row
        for system in systems
        for part in part_order(list(system.long_form))
        for row in summary_rows(system.long_form[part], system.name, part)
    ]


def summary_rows(summary: Mapping[str, Any], system: str, part: str) -> list[LongFormRow]:
    """A row per condition of one summary.

    Raises:
        UserError: it lacks something.
    """
    conditions = summary.get("conditions")
    if not isinstance(conditions, list):
        raise UserError(f"{system}, long form of {part}: no conditions in summary.json; decode again")
    for condition in conditions:
        missing = [name for name in _REQUIRED if name not in condition]
        if missing:
            raise UserError(f"{system}, long form of {part}: no '{missing[0]}' in summary.json; decode again")
    return [LongFormRow(system, part, condition) for condition in conditions]


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
    onsets = " or ".join(sorted({row["onset"] for row in rows}))
    caption = (
        "One by one: the same utterances as streams of their own; shifted: begun anywhere in a chunk. First "
        f"word: mean ms from its onset (by {onsets}), and the share of utterances that have it right."
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
        table.add_column(name, justify="right", no_wrap=True)
    sections: dict[tuple[str, str], list[LongFormRow]] = {}
    for row in rows:
        sections.setdefault((row.part, row.system), []).append(row)
    for (part, system), section in sections.items():
        table.add_row(f"[bold]{part}, {system}[/bold]")
        for row in section:
            cells = [cell(row) for _, cell in _COLUMNS]
            table.add_row(f"  {row.pause}", *cells, end_section=row is section[-1])
    return table
