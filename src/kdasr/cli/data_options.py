"""What a recipe says of the preparation of data, as command lines change it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.experiment.recipe_file import DataSections

override_option = click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of --config, as `kdasr train` does; only those of data and text matter. "
    "May be repeated.",
)


def data_sections(config_path: Path | None, overrides: Sequence[str]) -> "DataSections":
    """The sections `data` and `text` of a recipe file with `--override`; without a file, the defaults.

    Raises:
        UserError: overrides without a file, or see `load_data_sections`.
    """
    from kdasr.experiment.recipe_file import DataSections, load_data_sections

    if config_path is not None:
        return load_data_sections(config_path, overrides)
    if overrides:
        raise UserError("--override changes an option of a recipe: give --config, too")
    return DataSections()
