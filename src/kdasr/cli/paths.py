"""Files and folders on the command line: looked at as it is read, before anything is loaded."""

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


class InputPath(click.Path):
    """A file or folder that a command reads. It is looked at as the command line is read."""

    def __init__(self, what: str = "file or folder", *, dir_okay: bool = True) -> None:
        """
        Args:
            what: of what there is none, in words.
            dir_okay: whether it may be a folder.
        """
        super().__init__(path_type=Path, dir_okay=dir_okay)
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """
        Raises:
            UserError: nothing there; names the option.
        """
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        if not path.exists():
            option = f"{param.opts[0]} " if isinstance(param, click.Option) else ""
            raise UserError(f"{option}{path}: no such {self._what}")
        return path


class OutputFolder(click.Path):
    """A folder that a command writes, which need not be there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """
        Raises:
            UserError: a file is there, or in the place of a folder above; names the option.
        """
        path = super().convert(value, param, ctx)
        assert isinstance(path, Path)
        there = next(place for place in (path, *path.parents) if place.exists())
        if not there.is_dir():
            option = param.opts[0] if param else ""
            what = "there is a file of that name" if there == path else f"{there} is a file"
            raise UserError(f"{option} {path}: {what}")
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
