"""Options of the commands that cut a stream at endpoints."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdasr.cli.search_options import needs

if TYPE_CHECKING:
    from kdasr.recognition.endpoint import EndpointRules

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_RULES = (
    click.option(
        "--rule1-min-trailing-silence",
        type=float,
        default=2.4,
        show_default=True,
        help="Seconds of silence that end a segment, even one without a word; endpoints only.",
    ),
    click.option(
        "--rule2-min-trailing-silence",
        type=float,
        default=1.2,
        show_default=True,
        help="Seconds of silence that end a segment once something was said; endpoints only.",
    ),
    click.option(
        "--rule3-min-utterance-length",
        type=float,
        default=20.0,
        show_default=True,
        help="Seconds that end a segment, whatever is being said; endpoints only.",
    ),
    click.option(
        "--rehear",
        type=float,
        default=0.8,
        show_default=True,
        help="Seconds of silence before an endpoint that the next segment hears again, so that no word that "
        "begins there is lost; endpoints only, and not with --keep-predictor.",
    ),
    click.option(
        "--keep-predictor",
        is_flag=True,
        help="At an endpoint encoder and predictor go on, as in sherpa-onnx; else all is forgotten.",
    ),
)

_NAMES = (
    "rule1_min_trailing_silence",
    "rule2_min_trailing_silence",
    "rule3_min_utterance_length",
    "rehear",
    "keep_predictor",
)


def endpoint_options(default: str) -> Callable[[CommandT], CommandT]:
    """Give a command the options; it gets them as keyword arguments, for `take_endpoints`.

    Args:
        default: what the help says of leaving `--endpoints` out; the command decides (it gets None).
    """
    switch = click.option(
        "--endpoints/--no-endpoints",
        default=None,
        help=f"Whether a pause ends an utterance, by the rules of sherpa-onnx.  [default: {default}]",
    )

    def decorate(command: CommandT) -> CommandT:
        for option in reversed((switch, *_RULES)):
            command = option(command)
        return command

    return decorate


def take_endpoints(options: dict[str, Any], default: bool) -> "EndpointRules | None":
    """The rules that a command's options say; None without endpoints. Takes its own options out.

    Raises:
        UserError: rules without endpoints, or seconds that are none.
    """
    from kdasr.recognition.endpoint import EndpointRules

    wanted = options.pop("endpoints")
    rules = {name: options.pop(name) for name in _NAMES}
    if default if wanted is None else wanted:
        return EndpointRules(**rules)
    needs("--endpoints", *rules)
    return None
