"""`kdasr decode --long-form`: what its options say, and its table."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdasr.cli.search_options import needs
from kdasr.common.errors import UserError
from kdasr.common.logging import console, get_logger

if TYPE_CHECKING:
    from kdasr.evaluation.long_form_run import LongForm

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
    if not long_form:
        needs("--long-form", "minutes", "gaps", "gap_noise")
        return None
    from kdasr.evaluation.joining import NOISES, check_minutes, parse_gaps, pauses
    from kdasr.evaluation.long_form_run import LongForm

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
