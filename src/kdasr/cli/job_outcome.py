"""What a command that has run jobs says in the end."""

import sys
from collections.abc import Sequence

import click


def end_with(failed: Sequence[str], skipped: Sequence[str]) -> None:
    """Name the jobs that failed and those that were skipped for it; exit with status 1 if there are any."""
    if not failed:
        return
    click.echo(f"failed: {', '.join(failed)}", err=True)
    if skipped:
        click.echo(f"skipped, because they need one that failed: {', '.join(skipped)}", err=True)
    sys.exit(1)
