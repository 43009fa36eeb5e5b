"""`kdasr train`."""

import sys
from pathlib import Path

import click

from kdasr.cli.paths import InputPath


@click.command(short_help="Train one system of a recipe, stage by stage.")
@click.option(
    "--config",
    "config_path",
    type=InputPath("configuration file"),
    required=True,
    help="The recipe's YAML file.",
)
@click.option("--system", help="Which of the recipe's systems to train (teacher, streaming, ...).")
@click.option(
    "--exp",
    "exp_dir",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of this system; made if absent.",
)
@click.option("--until-stage", help="Stop after this stage; the next call goes on from there.")
@click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option, for example training.optim.learning_rate=5e-4. May be repeated.",
)
def command(
    config_path: Path, system: str | None, exp_dir: Path, until_stage: str | None, overrides: tuple[str, ...]
) -> None:
    """Train one system of a recipe, stage by stage: a transducer, or a language model (kind: language_model).

    Running the same command again goes on where it stopped: after Ctrl-C, after a kill, or with the next
    stage. Finished work is not repeated. Ctrl-C finishes the current step and leaves a checkpoint; the exit
    status is then 130.

    Several processes: torchrun --nproc-per-node N --no-python kdasr train ...
    """
    # Imported here, so that --help does not wait for torch.
    from kdasr.common.signals import ignore_stops
    from kdasr.experiment.recipe_file import load_any_experiment
    from kdasr.experiment.run import train
    from kdasr.training.interrupt import INTERRUPT_EXIT_STATUS, TrainingInterrupted

    config = load_any_experiment(config_path, system, overrides)
    try:
        train(config, exp_dir, until_stage)
    except TrainingInterrupted as stop:
        ignore_stops()
        click.echo(f"kdasr: {stop}", err=True)
        sys.exit(INTERRUPT_EXIT_STATUS)
