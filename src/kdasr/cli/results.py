"""`kdasr results`: every row of a recipe, tuned, trained with several seeds, decoded and compared."""

import sys
from pathlib import Path

import click

from kdasr.cli.paths import InputPath
from kdasr.common.errors import UserError


@click.command(short_help="Train and compare every row of a recipe, with several seeds.")
@click.argument("conf", type=InputPath("configuration file"))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder that `kdasr prepare` wrote; a plan (--dry-run) needs none.",
)
@click.option(
    "--exp",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("exp/results"),
    show_default=True,
    help="Where runs, logs and summary.json go.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes side by side."
)
@click.option(
    "--gpus",
    type=click.IntRange(min=1),
    help="GPUs of this machine, shared out among the jobs; each has processes on all of its own.",
)
@click.option("--rows", default="", help="Only these rows, and the topline.  [default: all]")
@click.option(
    "--upto",
    type=click.Choice(["dev", "test"]),
    default="dev",
    show_default=True,
    help="dev: no test part is decoded, for choosing. test: the final step.",
)
@click.option("--stage", hidden=True)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path),
    help="Document: the tables go between <!-- NAME --> and <!-- /NAME --> for CONF NAME.yaml.",
)
@click.option(
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of every system; repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Say what is finished and what would run.")
def command(
    conf: Path,
    data: Path,
    exp: Path,
    jobs: int,
    gpus: int | None,
    rows: str,
    upto: str,
    stage: str | None,
    markdown: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Train every row of CONF's `results` section with every seed, decode it and compare it.

    A finished job is skipped while its settings, data and teacher stay the same, an interrupted one goes
    on. Ctrl-C stops the running ones, which save a checkpoint; the exit status is then 130. When a job
    fails, those that need it are skipped and the others go on; the exit status is then 1. Each job has a
    log in EXP/log. Writes EXP/summary.json, results.md and wer-latency.png.
    """
    # Imported here, so that --help does not wait for them.
    import shlex

    from kdasr.cli.job_outcome import end_with
    from kdasr.common.devices import share_devices
    from kdasr.common.job_runner import Stopped
    from kdasr.study.driver import Options, describe_plan, rows_to_repeat, run_study
    from kdasr.study.evidence_tables import around_section
    from kdasr.study.jobs import Study
    from kdasr.study.plan import Planner
    from kdasr.study.recipe import load_recipe
    from kdasr.study.write import write_results

    if stage is not None:
        raise UserError(f"--stage is called --upto now: --upto {stage}")
    # Absolute, or another spelling of the same folder would be other data and train everything again.
    planner = Planner(load_recipe(conf, overrides), data.absolute(), exp)
    study = Study(planner, gpus=gpus // jobs if gpus else 0, plan_only=dry_run)
    devices = share_devices(gpus, jobs) if gpus and not dry_run else []
    options = Options(jobs, tuple(rows.replace(",", " ").split()), upto, devices)
    if dry_run:
        click.echo("\n".join(describe_plan(study, options)))
        return
    if markdown is not None:
        around_section(markdown, conf.stem)  # before hours of training
    try:
        report = run_study(study, options, click.echo)
    except Stopped as stop:
        click.echo(f"kdasr: {stop}; the same command goes on", err=True)
        sys.exit(130)
    changed = [part for override in overrides for part in ("--override", override)]
    paths = [_from_here(conf), "--data", _from_here(data), "--exp", _from_here(exp)]
    named = ["--rows", " ".join(shown)] if (shown := rows_to_repeat(study, options)) else []
    repeat = shlex.join(["kdasr", "results", *paths, *named, "--upto", upto, *changed])
    for line in write_results(study, upto, repeat, markdown):
        click.echo(line)
    end_with(report.failed, report.skipped)


def _from_here(path: Path) -> str:
    """The path as a reader at the same place would write it: a document keeps nothing of this machine."""
    absolute, here = path.absolute(), Path.cwd()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else path)
