"""The folder of a trained system, as an argument: refused before anything is loaded where there is none."""

from pathlib import Path
from typing import Any

import click

from kdasr.common.errors import SYSTEM_FOLDER, UserError


class ExperimentPath(click.Path):
    """A folder that `kdasr train` wrote, or something in its place.

    It is looked at as the command line is read, so that it is named also when an option is missing.
    """

    def __init__(self, *others: str) -> None:
        """
        Args:
            others: what else is taken, in words.
        """
        super().__init__(path_type=Path)
        self._others = others

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """
        Raises:
            UserError: nothing there.
        """
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        require_experiment(path, *self._others)
        return path


def require_experiment(path: Path, *others: str) -> None:
    """
    Raises:
        UserError: nothing there; says what is expected: the folder of a system, or one of `others`.
    """
    if not path.exists():
        raise UserError(f"{path}: not there; expected {', or '.join([SYSTEM_FOLDER, *others])}")


CHECKPOINT = "a checkpoint file"
EXPERIMENT = "a folder of such folders"
EXPORTED = "a folder that kdasr export wrote"
