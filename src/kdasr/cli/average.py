"""`kdasr average`."""

from pathlib import Path

import click


@click.command(short_help="Average the last checkpoints of an experiment.")
@click.argument("exp_dir", metavar="EXP", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--last", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Checkpoints."
)
def command(exp_dir: Path, count: int) -> None:
    """Average the last checkpoints of the final stage of EXP into EXP/checkpoints/averaged.pt.

    The checkpoints are those of the last validations; a run keeps training.keep_last of them. Decoding
    prefers averaged.pt to best.pt.
    """
    # Imported here, so that --help does not wait for torch.
    from kdasr.experiment.run import average

    paths = average(exp_dir, count)
    click.echo(f"averaged {len(paths)} checkpoints into {exp_dir / 'checkpoints' / 'averaged.pt'}:")
    for path in paths:
        click.echo(f"  {path.name}")
