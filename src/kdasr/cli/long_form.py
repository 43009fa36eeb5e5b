"""`kdasr decode --long-form`: what its options say, and its table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdasr.cli.search_options import needs
from kdasr.common.errors import UserError
from kdasr.common.logging import console, get_logger

if TYPE_CHECKING:
    from kdasr.streaming.long_form_run import LongForm

log = get_logger(__name__)

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

FOLDER = "long-form"
"""Beside the folders of the modes."""
BATCH = 32
GAPS = "0,0.3,1,3"
_NOISES = ("both", "quiet", "silence")

_OPTIONS = (
    click.option(
        "--long-form",
        is_flag=True,
        help="Join the utterances into streams, with and without endpoints, and score the whole streams.",
    ),
    click.option(
        "--minutes",
        type=float,
        default=5.0,
        show_default=True,
        help="Longest stream of --long-form, pauses included.",
    ),
    click.option(
        "--gaps",
        default=GAPS,
        show_default=True,
        metavar="SECONDS,...",
        help="Pauses between utterances, each decoded by itself; --long-form only.",
    ),
    click.option(
        "--gap-noise",
        type=click.Choice(_NOISES),
        default="both",
        show_default=True,
        help="What pauses hold: quiet noise (60 dB below full scale), digital silence, or each of them.",
    ),
)


def long_form_options(command: CommandT) -> CommandT:
    """Give a command the options; it gets them as keyword arguments, for `parse_long_form`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def parse_long_form(long_form: bool, minutes: float, gaps: str, gap_noise: str) -> "LongForm | None":
    """What the options say; None without `--long-form`.

    Raises:
        UserError: options that need `--long-form`; gaps or minutes that are no numbers or out of range.
    """
    from kdasr.streaming.joining import NOISES, check_minutes, parse_gaps, pauses
    from kdasr.streaming.long_form_run import LongForm

    if not long_form:
        needs("--long-form", "minutes", "gaps", "gap_noise")
        return None
    noises = NOISES if gap_noise == "both" else (gap_noise,)
    return LongForm(pauses(parse_gaps(gaps), noises), check_minutes(minutes))


def batch_size(options: "LongForm", streams: int) -> "LongForm":
    """With so many streams in a batch; nothing is timed here, so that the default is many."""
    given = click.get_current_context().get_parameter_source("streams")
    is_default = given is click.core.ParameterSource.DEFAULT
    return replace(options, batch=BATCH if is_default else streams)


def show_progress(label: str) -> Callable[[Iterator[Any], int], Iterable[Any]]:
    """A bar on the terminal for the two passes over a part: single utterances, then streams."""
    from rich.progress import track

    return lambda items, total: track(items, label, total=total, console=console, transient=True)


def print_long_form(summaries: Sequence[Mapping[str, Any]]) -> None:
    """A table of every part and condition."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    first = summaries[0]
    onsets = sorted({row["onset"] for summary in summaries for row in summary["conditions"]})
    table = Table(
        title=f"{first['system']}, utterances joined into streams of up to {first['minutes']:g} minutes",
        caption=f"First word in ms from its onset by {' or '.join(onsets)}, in brackets the share of "
        "utterances that have it right; one by one: the same utterances as streams of their own.",
        box=SIMPLE_HEAD,
    )
    table.add_column("part")
    table.add_column("pause")
    table.add_column("endpoints")
    for column in (
        "WER %",
        "sub",
        "del",
        "ins",
        "one by one",
        "more errors",
        "first word",
        "one by one",
        "delay",
    ):
        table.add_column(column, justify="right")
    for summary in summaries:
        for row in summary["conditions"]:
            table.add_row(summary["part"], *long_form_cells(row))
    shown = Console()
    (shown if shown.is_terminal else Console(width=max(shown.width, 140))).print(table)


def long_form_cells(row: Mapping[str, Any]) -> list[str]:
    """One condition as text, from the pause on."""
    return [
        f"{row['gap_s']:g} s {row['noise']}" if row["gap_s"] else "none",
        "yes" if row["endpoints"] else "no",
        _number(row["wer"], 2),
        *(str(row[kind]) for kind in ("substitutions", "deletions", "insertions")),
        _number(row["single_wer"], 2),
        "-" if row["relative_increase"] is None else f"{row['relative_increase']:+.0f} %",
        *(_first_word(row, which) for which in ("", "single_")),
        _number(row["emission_delay_ms"]["mean"], 0),
    ]


def _first_word(row: Mapping[str, Any], which: str) -> str:
    share = _share(row[f"{which}first_word_coverage"])
    return f"{_number(row[f'{which}first_word_ms']['mean'], 0)} ({share})"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def long_form_folder(out: Path, part: str) -> Path:
    """Where the records of a part go.

    Raises:
        UserError: nothing can be written there.
    """
    folder = out / FOLDER / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot write there: {error.strerror}") from None
    return folder
