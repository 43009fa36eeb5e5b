"""`kdasr jobs`: the jobs of a list, in the order of what they need, side by side."""

import sys
from pathlib import Path
from typing import TextIO

import click

from kdasr.common.errors import UserError


@click.command(short_help="Run a list of jobs, several side by side, each with a log.")
@click.argument("jobs_file", type=click.File(encoding="utf-8"), default="-", metavar="[FILE]")
@click.option(
    "--exp",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Experiment folder; logs go to EXP/log.",
)
@click.option(
    "--jobs", "num", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs side by side."
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="GPUs of this machine, shared out among the jobs side by side.  [default: each job sees all]",
)
@click.option(
    "--show", multiple=True, metavar="JOB", help="Print the whole log of this job when it ends; repeatable."
)
def command(jobs_file: TextIO, exp: Path, num: int, gpus: int | None, show: tuple[str, ...]) -> None:
    """Run the jobs of FILE (or of the standard input), which looks like a Makefile:

    \b
        == Stage 3: teacher
        train-teacher:
            kdasr train --config conf/demo.yaml --system teacher --exp exp/demo/teacher
        decode-teacher: train-teacher
            kdasr decode exp/demo/teacher --data data/demo --parts test-clean
        report: decode-teacher | check-export
            kdasr report exp/demo

    A job runs once those that it names have finished; those behind the bar must only have ended, even in
    failure. Each indented line is a command for bash; kdasr's own verbs skip what they have finished before.
    With --jobs 1 the jobs print here; otherwise each has a log in EXP/log, and the last line of it is
    printed now and then. When a job fails, those that need it are skipped and the others go on; the exit
    status is then 1. With --gpus each job sees as many GPUs as the others, and none that another job sees at
    that time (CUDA_VISIBLE_DEVICES). Ctrl-C stops the running ones, which save a checkpoint; the exit status
    is then 130.
    """
    from kdasr.cli.job_outcome import end_with
    from kdasr.common.devices import share_devices
    from kdasr.common.job_list import read_jobs
    from kdasr.common.job_runner import RunOptions, Stopped, run_jobs

    try:
        text = jobs_file.read()
    except UnicodeDecodeError:
        raise UserError(f"{jobs_file.name}: not UTF-8 text, but a list of jobs is expected") from None
    jobs = read_jobs(text, jobs_file.name)
    devices = share_devices(gpus, num) if gpus else []
    options = RunOptions(exp / "log", num, show, foreground=num == 1, devices=devices)
    try:
        outcome = run_jobs(jobs, options, say=click.echo)
    except Stopped as stop:
        click.echo(f"kdasr: {stop}; the same command goes on", err=True)
        sys.exit(128 + stop.signal)
    end_with(outcome.failed, outcome.skipped)
