"""The results as a terminal table, as CSV and as JSON."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from kdasr.common.files import write_json, write_text
from kdasr.common.terminal import table_console
from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.statistics import Interval
from kdasr.report import wording
from kdasr.report.long_form import LongFormRow, counts, long_form_table
from kdasr.report.results import PairedGain, ResultRow, part_names
from kdasr.report.wording import signed

_SUMMARIES = ("first_word", "first_token", "emission_delay", "finalization")
_STATISTICS = ("mean", "p50", "p90", "p99")

CSV_COLUMNS = (
    *("system", "part", "mode", "context", "wer", "wer_low", "wer_high"),
    *("cer", "cer_low", "cer_high", "measure", "num_words", "num_utterances"),
    *(f"{summary}_{statistic}_ms" for summary in _SUMMARIES for statistic in _STATISTICS),
    *("first_word_wall_mean_ms", "first_word_coverage"),
    *(f"first_token_{kind.value}" for kind in FirstToken),
    *("first_token_wall_mean_ms", "rtf", "params", "train_steps", "onset"),
)


def write_results_json(
    rows: Sequence[ResultRow],
    long_form: Sequence[LongFormRow],
    path: Path,
    contexts: Sequence[ResultRow] = (),
) -> None:
    """Write one object per system and part; `long_form` in it has one per condition of its long streams.

    `contexts`: rows under other contexts, which follow; those under a context of `rows` are left out.
    """
    own = {(row.system, row.part, row.context) for row in rows}
    others = [row for row in contexts if (row.system, row.part, row.context) not in own]
    write_json(
        path,
        [
            row.as_json()
            | {
                "long_form": [
                    joined.as_json()
                    for joined in long_form
                    if (joined.system, joined.part) == (row.system, row.part) and row not in others
                ]
            }
            for row in (*rows, *others)
        ],
    )


def write_comparisons_json(comparisons: Sequence[PairedGain], path: Path) -> None:
    """Write one object per comparison and part."""
    write_json(path, [comparison.as_json() for comparison in comparisons])


def write_results_csv(rows: Sequence[ResultRow], path: Path) -> None:
    """Write one line per system and part; empty cells where nothing was measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_csv_row(row) for row in rows)
    write_text(path, text.getvalue())


def _csv_row(row: ResultRow) -> dict[str, Any]:
    cells = {name: getattr(row, name) for name in CSV_COLUMNS if hasattr(row, name)}
    cells |= {"wer": row.wer.estimate, "wer_low": row.wer.low, "wer_high": row.wer.high}
    cells |= {"cer": row.cer.estimate, "cer_low": row.cer.low, "cer_high": row.cer.high}
    cells["first_token_wall_mean_ms"] = row.first_token_ms["wall_mean"]
    cells["first_word_wall_mean_ms"] = row.first_word_ms["wall_mean"]
    cells["first_word_coverage"] = row.first_word_ms["coverage"]
    cells |= {f"first_token_{kind.value}": row.first_tokens[kind.value] for kind in FirstToken}
    for summary in _SUMMARIES:
        values = getattr(row, f"{summary}_ms")
        cells |= {f"{summary}_{statistic}_ms": values[statistic] for statistic in _STATISTICS}
    return {name: None if value != value else value for name, value in cells.items()}  # NaN


def number(value: float | int | None, digits: int = 0) -> str:
    """A number for the terminal: without separators, so that it can be copied."""
    return wording.number(value, digits).replace(wording.THOUSANDS, "")


def terminal_table(rows: Sequence[ResultRow], width: int) -> Table:
    """Every row of the results, one section per part; the least important columns need a larger `width`."""
    columns = [column for column in _COLUMNS if width >= column.min_width]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("system", overflow="fold")
    for column in columns:
        table.add_column(column.name, justify="right", no_wrap=True)
    parts = part_names(rows)
    for part in parts:
        section = [row for row in rows if row.part == part]
        table.add_row(f"[bold]{part}[/bold]")
        for index, row in enumerate(section):
            name = row.system + ("" if row.mode == "streaming" else f" ({row.mode})")
            cells = [column.cell(row) for column in columns]
            table.add_row(f"  {name}", *cells, end_section=index == len(section) - 1)
    return table


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[ResultRow], str]
    min_width: int = 0
    """Columns of the terminal below which this one is left out."""


_COLUMNS = (
    _Column("WER %", lambda row: number(row.wer.estimate, 2)),
    _Column("95 %", lambda row: f"{number(row.wer.low, 1)}–{number(row.wer.high, 1)}", 74),
    _Column("CER %", lambda row: number(row.cer.estimate, 2), 100),
    _Column("words", lambda row: number(row.num_words), 120),
    _Column("utts", lambda row: number(row.num_utterances), 120),
    _Column("first\nword\nmean", lambda row: number(row.first_word_ms["mean"])),
    _Column("first\nword\np90", lambda row: number(row.first_word_ms["p90"])),
    _Column("first\nword\nwall", lambda row: number(row.first_word_ms["wall_mean"]), 120),
    _Column("first\nword\nright %", lambda row: wording.share(row.first_word_ms["coverage"])),
    _Column("first\ntoken\nmean", lambda row: number(row.first_token_ms["mean"]), 80),
    _Column("wrong,\nearly,\nnone %", lambda row: wording.bad_first_tokens(row.first_tokens), 90),
    _Column("emission\ndelay\nmean", lambda row: number(row.emission_delay_ms["mean"]), 100),
    _Column("finali-\nsation\nmean", lambda row: number(row.finalization_ms["mean"]), 100),
    _Column("RTF", lambda row: number(row.rtf, 3)),
    _Column("params", lambda row: f"{number(row.params / 1e6, 2)} M" if row.params else number(None), 120),
    _Column("steps", lambda row: number(row.train_steps), 100),
)


def comparison_table(comparisons: Sequence[PairedGain]) -> Table:
    """Paired differences for the terminal."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("system", "against", "part"):
        table.add_column(name, overflow="fold")
    for name in ("fewer errors, %", "first word\nearlier, ms", "first token\nearlier, ms", "steps"):
        table.add_column(name, justify="right")  # in a narrow terminal its cells are wrapped, not cut
    for c in comparisons:
        steps = number(c.row_steps) + ("" if c.equal_steps else f" against {number(c.baseline_steps)}")
        errors = f"{signed(c.wer.estimate)} ({signed(c.wer.low)} to {signed(c.wer.high)})"
        if c.measure == "cer":
            errors += " (characters)"
        word = _gain(c.first_word.gain)
        if c.first_word.coverage:
            word += f" on {wording.share(c.first_word.coverage)} %"
        table.add_row(c.row, c.baseline, c.part, errors, word, _gain(c.first_token), steps)
    return table


def _gain(gain: Interval) -> str:
    if not gain.count:
        return wording.NOTHING
    return f"{signed(gain.estimate, 0)} ({signed(gain.low, 0)} to {signed(gain.high, 0)})"


def print_tables(
    rows: Sequence[ResultRow], comparisons: Sequence[PairedGain], long_form: Sequence[LongFormRow] = ()
) -> None:
    """Print all tables on stdout."""
    console = table_console()
    console.print("Results: latencies in ms, WER in percent with its 95 % bootstrap interval, CER in percent")
    console.print(terminal_table(rows, console.width))
    if comparisons:
        console.print(
            "Paired by utterance, with 95 % bootstrap intervals over "
            f"{wording.resampled_units(c.wer for c in comparisons)}; positive: better than the baseline. "
            "First words: on the utterances that both have right"
        )
        console.print(comparison_table(comparisons))
    if long_form:
        print_long_form(long_form)


def print_long_form(rows: Sequence[LongFormRow]) -> None:
    """Print the table of long streams on stdout."""
    console = table_console()
    minutes = max(row["minutes"] for row in rows)
    console.print(
        f"{counts(rows)} utterances of a part joined into streams of up to {minutes:g} minutes, with pauses "
        "between them"
    )
    console.print(long_form_table(rows))
