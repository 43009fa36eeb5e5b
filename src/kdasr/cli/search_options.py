"""Options of every command that recognises: which search, and how the input ends."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.checkpoint import Bundle
    from kdasr.decoding.search import SearchOptions
    from kdasr.nn.context import Context
    from kdasr.streaming.recognizer import StreamingRecognizer

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SEARCHES = ("greedy", "beam")


class _TailSeconds(click.ParamType):
    """`auto` (None) or seconds, 0 or more."""

    name = "auto|SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value == "auto":
            return None
        return click.FloatRange(min=0).convert(value, param, ctx)


_OPTIONS = (
    click.option(
        "--tail-seconds",
        type=_TailSeconds(),
        default="auto",
        show_default=True,
        help="Silence decoded after the end of the input; auto: what front end and right context need.",
    ),
    click.option(
        "--search",
        type=click.Choice(SEARCHES),
        default="greedy",
        show_default=True,
        help="The best piece of every frame, or modified beam search.",
    ),
    click.option(
        "--beam",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="Hypotheses per stream; beam search only.",
    ),
    click.option(
        "--nbest",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="List so many hypotheses with their scores; beam search only.",
    ),
    click.option(
        "--blank-penalty",
        type=float,
        default=0.0,
        show_default=True,
        help="Subtracted from the blank's logit, against deletions.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Divides the logits; beam search only.",
    ),
    click.option(
        "--biasing",
        type=click.Path(path_type=Path),
        help="Phrases to favour, one per line, each with its boost per piece after a tab if it likes; "
        "beam search only.",
    ),
)


def search_options(command: CommandT) -> CommandT:
    """Give a command the options; it gets them as keyword arguments, for `build_recognizer`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def needs(what: str, *names: str) -> None:
    """Refuse options that were given on the command line and would do nothing without `what`.

    Raises:
        UserError: naming the first of them.
    """
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UserError(f"--{name.replace('_', '-')} needs {what}")


def parse_search(
    search: str, beam: int, nbest: int, blank_penalty: float, temperature: float, biasing: Path | None
) -> "SearchOptions":
    """The search that the options describe.

    Raises:
        UserError: an option that greedy search has no use for.
    """
    from kdasr.decoding.search import BeamOptions, GreedyOptions

    if search == "beam":
        return BeamOptions(beam=beam, blank_penalty=blank_penalty, temperature=temperature)
    needs("--search beam", "beam", "nbest", "temperature", "biasing")
    return GreedyOptions(blank_penalty=blank_penalty)


def build_recognizer(
    bundle: "Bundle",
    context: "Context | None",
    tail_seconds: float | None,
    search: "SearchOptions",
    biasing: Path | None,
) -> "StreamingRecognizer":
    """The recogniser of a bundle with these options.

    Raises:
        UserError: see `read_phrases` and `BiasingGraph.from_phrases`.
    """
    from kdasr.decoding.biasing import BiasingGraph, read_phrases
    from kdasr.streaming.recognizer import StreamingRecognizer

    graph = BiasingGraph.from_phrases(read_phrases(biasing), bundle.tokenizer) if biasing else None
    return StreamingRecognizer(
        bundle, context=context, tail_seconds=tail_seconds, search=search, biasing=graph
    )
