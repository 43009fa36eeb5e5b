"""`kdasr distill`: an offline teacher in, a streaming student out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.paths import CHECKPOINT, ExperimentPath, InputPath, OutputFolder
from kdasr.cli.prepare import parse_places
from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging

if TYPE_CHECKING:
    from kdasr.bundle import Bundle
    from kdasr.study.distill_options import DistillOptions


@click.command(short_help="An offline teacher in, an exported streaming student out.")
@click.option(
    "--teacher",
    type=ExperimentPath(CHECKPOINT),
    required=True,
    help="Experiment folder or checkpoint: trained here, or from kdasr import.",
)
@click.option(
    "--cuts",
    multiple=True,
    metavar="PART=PLACE",
    help="Lhotse cuts of a part named train..., dev... or test...: a manifest or a Shar folder; repeatable.",
)
@click.option(
    "--data",
    type=InputPath("data folder"),
    help="Data folder that kdasr prepare wrote, in the place of --cuts.",
)
@click.option("--out", type=OutputFolder(), required=True, help="The student's folder.")
@click.option("--chunk-ms", type=click.IntRange(min=10), default=320, show_default=True, help="Chunk.")
@click.option(
    "--left-ms", type=click.IntRange(min=0), default=2560, show_default=True, help="Left context of a chunk."
)
@click.option(
    "--lookahead-ms", type=click.IntRange(min=0), default=0, show_default=True, help="Right context."
)
@click.option(
    "--student",
    type=InputPath("configuration file", dir_okay=False),
    help="YAML with what the student has otherwise: sections model, data, training, objective.  [default: "
    "the teacher's sizes]",
)
@click.option(
    "--passes",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    help="How often the training data are heard, both stages together; at least 600 steps.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs to train on."
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs side by side.")
@click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change an option of the recipe that is made, for example data.max_duration=300. May be repeated.",
)
def command(cuts: tuple[str, ...], data: Path | None, out: Path, jobs: int, **asked: Any) -> None:
    """Make a streaming student of an offline teacher, with its export for sherpa-onnx and a report.

    \b
        kdasr distill --teacher exp/teacher --out exp/student \\
            --cuts train=train.jsonl.gz --cuts dev=dev.jsonl.gz

    The student starts from the teacher's weights as far as they fit, follows its hidden states and then its
    output distributions. OUT is an ordinary experiment folder; OUT/distill/recipe.yaml says all that was
    chosen. The same command goes on where it stopped, and finished work is not repeated.
    """
    setup_logging()
    if bool(cuts) == (data is not None):
        raise UserError("what is to be trained on? Give --cuts PART=FILE_OR_FOLDER, or --data DIR")
    places = parse_places(cuts)
    for kind in ("train", "dev") if cuts else ():
        if not any(part.startswith(kind) for part in places):
            raise UserError(f"--cuts: no part named {kind}...: give --cuts {kind}=FILE_OR_FOLDER")
    # Imported here, so that --help and the messages above do not wait for torch.
    from kdasr.cli.job_outcome import end_with
    from kdasr.common.job_runner import RunOptions, Stopped, run_jobs
    from kdasr.study.distill import has_begun, list_jobs, start_student, summary_lines
    from kdasr.study.distill_options import (
        WORK,
        DistillOptions,
        check_folder,
        open_teacher,
        sizes_and_context,
    )
    from kdasr.study.distill_recipe import write_recipe
    from kdasr.study.stamps import Stamps

    options = DistillOptions(out=out, data=data or out / WORK / "data", **asked)
    check_folder(options)
    teacher = open_teacher(options)
    sizes_and_context(options, teacher.model.config)  # before hours of preparation
    base = _prepare(options, teacher, places, jobs)
    config = write_recipe(options, teacher, base)
    made = list_jobs(options, teacher)
    if not has_begun(options):
        click.echo(f"start: {start_student(options, config, teacher)}")
    running = RunOptions(options.work / "log", jobs, show=("check-export", "report"))
    try:
        outcome = run_jobs(made, running, Stamps(options.work / "stamps"), click.echo)
    except Stopped as stop:
        click.echo(f"kdasr: {stop}; the same command goes on", err=True)
        sys.exit(128 + stop.signal)
    end_with(outcome.failed, outcome.skipped)
    for line in summary_lines(options, config.contexts[0]):
        click.echo(line)


def _prepare(
    options: "DistillOptions", teacher: "Bundle", places: dict[str, list[Path]], jobs: int
) -> dict[str, Any]:
    """Prepare the data with the teacher's pieces, where they are not prepared; returns their section."""
    import torch

    from kdasr.bundle import tokens_folder
    from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
    from kdasr.data.tokens import adopt_pieces
    from kdasr.study.distill_recipe import asked_sections, data_section

    base = data_section(teacher, on_gpu=torch.cuda.is_available())
    if not places:
        return base
    asked = asked_sections(options, base).data
    prepare_corpus(
        PrepareOptions(
            corpus_dir=None,
            out_dir=options.data,
            cuts=places,
            speeds=asked.speed_perturbation,
            on_the_fly=asked.on_the_fly,
            jobs=jobs,
            normalize=teacher.tokenizer.rule,
        )
    )
    adopt_pieces(options.data, tokens_folder(teacher.path))
    return base
