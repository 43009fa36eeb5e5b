"""What the commands that read audio do about utterances that have none that can be used."""

import click

max_bad_option = click.option(
    "--max-bad",
    default="1%",
    show_default=True,
    help="The most utterances of a part whose audio may be bad: a share (rounded up) or a number. They are "
    "left out, named and counted; 0 stops at the first.",
)
