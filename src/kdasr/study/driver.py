"""Every row of a recipe: tuned, trained with every seed, decoded, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdasr.common.files import read_json
from kdasr.study.evidence import Evidence
from kdasr.study.plan import Planner
from kdasr.study.planned_run import Run
from kdasr.study.recipe import select_rows
from kdasr.study.runner import Outcome, Say, run_jobs
from kdasr.study.stamps import Job, Stamps
from kdasr.study.trained_run import TrainedRun, read_run

Rates = dict[str, float | None]


@dataclass(frozen=True)
class Options:
    """What one call of the driver is to do."""

    num_jobs: int = 1
    rows: tuple[str, ...] = ()
    """Empty: all."""
    stage: str = "test"
    """dev: nothing decodes a test part."""


@dataclass
class Report:
    """What a call has left to be said."""

    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take over what went wrong; a job that fails in two rounds is named once."""
        self.failed += [name for name in outcome.failed if name not in self.failed]
        self.skipped += [name for name in outcome.skipped if name not in self.skipped]


def carry_out(planner: Planner, options: Options, say: Say = print) -> Report:
    """Run all jobs of the chosen rows: trials of learning rates first, then every seed with the best one.

    What is not tuned (the teachers of all seeds) fills the first round, so that no process waits for the
    last trial. With all trials finished by an earlier call there is one round, in which students fill the
    time that a single training of a teacher leaves. Test parts are decoded in the last round only, by runs
    with the chosen learning rates.

    Raises:
        Stopped: by a signal; see `run_jobs`.
        UserError: no such row, or no prepared data.
    """
    rows = select_rows(planner.recipe.results, options.rows)
    report = Report()
    trials = planner.trials(rows)
    trial_jobs = planner.jobs(trials, "dev")
    if len(_finished(planner, trial_jobs)) < len(trial_jobs):
        early = {row: rate for row, rate in fixed_rates(planner).items() if row in rows}
        runs = [*trials, *planner.runs(rows, early)]
        jobs = planner.jobs(runs, "dev")
        say(f"Round 1: learning rates of {len({run.row for run in trials})} rows, {len(trials)} trials")
        report.add(run_jobs(jobs, planner.exp, options.num_jobs, say))
    rates = {row: rate for row, rate in chosen_rates(planner).items() if row in rows}
    for row in rows:
        if row not in rates:
            whose = planner.recipe.results.rows[row].rate_of or row
            say(f"{row}: its learning rate is not chosen, because not all trials of {whose} have finished")
    runs = planner.runs(rows, rates)
    say(f"Training and decoding {len(runs)} runs of {len(rates)} rows")
    report.add(run_jobs(planner.jobs(runs, options.stage), planner.exp, options.num_jobs, say))
    return report


def describe_plan(planner: Planner, options: Options) -> list[str]:
    """A line per job that a call would look at: what is finished, and what would run."""
    rows = select_rows(planner.recipe.results, options.rows)
    rates = {row: rate for row, rate in chosen_rates(planner).items() if row in rows}
    jobs = {job.name: job for job in planner.jobs(planner.trials(rows), "dev")}
    jobs |= {job.name: job for job in planner.jobs(planner.runs(rows, rates), options.stage)}
    finished = _finished(planner, list(jobs.values()))
    return [f"{'finished' if name in finished else 'to run  '}  {name}" for name in jobs]


def fixed_rates(planner: Planner) -> Rates:
    """The learning rate of every row that has nothing to choose from."""
    results = planner.recipe.results
    return {
        row: results.rates(row)[0]
        for row, config in results.rows.items()
        if len(results.rates(row)) == 1 and config.rate_of is None
    }


def tuning_table(planner: Planner) -> dict[str, dict[float, float | None]]:
    """By tuned row: dev WER in percent of each learning rate with the first seed, None where unfinished."""
    table: dict[str, dict[float, float | None]] = {}
    trials = planner.trials(list(planner.recipe.results.rows))
    finished = _finished(planner, planner.jobs(trials, "dev"))
    for run in trials:
        assert run.learning_rate is not None
        wer = dev_wer(planner, run) if run.job_name("dev") in finished else None
        table.setdefault(run.row, {})[run.learning_rate] = wer
    return table


def chosen_rates(planner: Planner) -> Rates:
    """The learning rate of every row for which it is known: fixed, the best of all its trials, or another's.

    The best has the lowest dev WER; of equals, the lowest learning rate.
    """
    chosen = fixed_rates(planner)
    for row, trials in tuning_table(planner).items():
        wers = {rate: wer for rate, wer in trials.items() if wer is not None}
        if len(wers) == len(trials):
            chosen[row] = min(wers, key=lambda rate: (wers[rate], rate))
    for row, config in planner.recipe.results.rows.items():
        if config.rate_of in chosen:
            chosen[row] = chosen[config.rate_of]
    return chosen


def dev_wer(planner: Planner, run: Run) -> float:
    """Word error rate in percent of a decoded run on all dev parts together."""
    mode = "offline" if run.offline else "streaming"
    folder = run.folder / "decode" / mode
    summaries = [read_json(folder / part / "summary.json") for part in planner.recipe.parts("dev")]
    errors = sum(sum(summary["errors"].values()) for summary in summaries)
    return float(100 * errors / sum(summary["num_words"] for summary in summaries))


def collect(planner: Planner, stage: str, variant: str = "") -> Evidence:
    """Every decoded run of the recipe, whichever call has trained it; see `Evidence`.

    `variant`: empty for greedy search, or `WITH_LM`.
    """
    results = planner.recipe.results
    runs = planner.runs(list(results.rows), chosen_rates(planner))
    finished = _finished(planner, planner.jobs(runs, stage))
    kinds = ("dev", "test") if stage == "test" else ("dev",)
    trained: list[TrainedRun] = []
    for run in runs:
        there = [kind for kind in kinds if run.job_name(f"{kind}{variant}") in finished]
        parts = [part for kind in there for part in planner.recipe.parts(kind)]
        if parts:
            mode = "offline" if run.offline else "streaming"
            trained.append(read_run(run.info(), run.decoded(variant) / mode, mode, parts))
    return Evidence(
        rows=list(results.rows),
        runs=trained,
        baselines=list(results.baselines),
        bound=results.bound,
        seeds=list(results.seeds),
        fewer={row: config.num_seeds for row, config in results.rows.items() if config.num_seeds},
        parts=[part for kind in kinds for part in planner.recipe.parts(kind)],
        shared=[] if results.teacher_per_seed else results.foundation(),
        shipped=results.shipped,
        against={row: config.against for row, config in results.rows.items() if config.against},
        choices=[row for row, config in results.rows.items() if not config.test],
        tuned=_tuned(tuning_table(planner), chosen_rates(planner)),
    )


def _tuned(
    table: Mapping[str, Mapping[float, float | None]], chosen: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    """The tuning in the form of `summary.json`."""
    return [
        {
            "row": row,
            "trials": [{"learning_rate": rate, "dev_wer": wer} for rate, wer in trials.items()],
            "learning_rate": chosen.get(row),
            "at_edge": chosen.get(row) in (min(trials), max(trials)),
        }
        for row, trials in table.items()
    ]


def _finished(planner: Planner, jobs: Sequence[Job]) -> set[str]:
    return Stamps(planner.exp / "stamps").finished(jobs)
