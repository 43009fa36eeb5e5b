"""Options of the commands that cut a stream at endpoints."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kdasr.cli.search_options import needs

if TYPE_CHECKING:
    from kdasr.streaming.endpoint import EndpointRules

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
        "--keep-predictor",
        is_flag=True,
        help="The predictor keeps the last pieces at an endpoint, as in sherpa-onnx; else all is forgotten.",
    ),
)


def endpoint_options(default: str) -> Callable[[CommandT], CommandT]:
    """Give a command the options; it gets them as keyword arguments, for `parse_endpoints`.

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


def parse_endpoints(endpoints: bool, **rules: Any) -> "EndpointRules | None":
    """The rules that the options say; None without endpoints.

    Raises:
        UserError: rules without endpoints, or seconds that are none.
    """
    from kdasr.streaming.endpoint import EndpointRules

    if endpoints:
        return EndpointRules(**rules)
    needs("--endpoints", *rules)
    return None
