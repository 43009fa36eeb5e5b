"""`kdasr average`."""

from pathlib import Path

import click

from kdasr.cli.paths import ExperimentPath


@click.command(short_help="Average the last checkpoints of an experiment.")
@click.argument("exp_dir", metavar="EXP", type=ExperimentPath())
@click.option(
    "--last", "count", type=click.IntRange(min=1), help="Checkpoints. [default: training.keep_last]"
)
def command(exp_dir: Path, count: int | None) -> None:
    """Average the last checkpoints of the final stage of EXP into EXP/checkpoints/averaged.pt.

    The checkpoints are those of the last validations; a run keeps training.keep_last of them. With
    training.average_decay each is an average already, and the last one alone is taken. A stage starts from
    the same average of the stage before it. Decoding prefers averaged.pt to best.pt.
    """
    # Imported here, so that --help does not wait for torch.
    from kdasr.experiment.run import average

    paths = average(exp_dir, count)
    click.echo(f"averaged {len(paths)} checkpoints into {exp_dir / 'checkpoints' / 'averaged.pt'}:")
    for path in paths:
        click.echo(f"  {path.name}")
