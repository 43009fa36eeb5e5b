"""Options of the commands that go over parts of a data folder."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from kdasr.cli.paths import InputPath
from kdasr.common.errors import UserError

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

data_option = click.option(
    "--data", type=InputPath("data folder"), required=True, help="Folder that `kdasr prepare` wrote."
)

max_utterances_option = click.option(
    "--max-utterances", type=click.IntRange(min=1), help="Only the first so many of each part."
)


def parts_option(what: str) -> Callable[[CommandT], CommandT]:
    """The option `--parts`, for `named_parts`.

    Args:
        what: what the command does to them, as the help says it.
    """
    return click.option("--parts", required=True, help=f"Parts to {what}, separated by spaces or commas.")


def named_parts(parts: str) -> list[str]:
    """The parts that the option names, each once.

    Raises:
        UserError: it names none.
    """
    names = list(dict.fromkeys(parts.replace(",", " ").split()))
    if not names:
        raise UserError("--parts: name at least one part")
    return names
