"""Standard output for tables: as wide as the terminal, and without a limit in a file or a pipe."""

import sys

from rich.console import Console

UNLIMITED = 100_000
"""Columns of what is not a terminal: no table is so wide, so that none is cut."""


def table_console() -> Console:
    """Where to print a table.

    Colors may be wanted in a pipe too (`FORCE_COLOR`); that does not make it a terminal of so many columns.
    """
    return Console() if sys.stdout.isatty() else Console(width=UNLIMITED)
