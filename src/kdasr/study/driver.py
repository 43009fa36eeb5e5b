"""Every row of a recipe: tuned, trained with every seed, decoded, compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdasr.common.files import read_object
from kdasr.common.job_runner import Outcome, Say
from kdasr.study.evidence import Evidence
from kdasr.study.jobs import STAGES, Study
from kdasr.study.plan import Run, select_rows
from kdasr.study.stamps import StampedJob, Stamps, run_stamped
from kdasr.study.trained_run import TrainedRun, check_decoded, read_run

Rates = dict[str, float | None]


@dataclass(frozen=True)
class Options:
    """What one call of the driver is to do."""

    num_jobs: int = 1
    rows: tuple[str, ...] = ()
    """Empty: all."""
    upto: str = "test"
    """One of `STAGES`; dev: nothing decodes a test part."""
    devices: Sequence[Sequence[str]] = ()
    """GPUs of each job that runs side by side with others; none: all see all."""


@dataclass
class Report:
    """What a call has left to be said."""

    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Take over what went wrong; of a job that was in two rounds the later one counts."""
        again = outcome.complete | outcome.hopeless
        self.failed = [name for name in self.failed if name not in again] + outcome.failed
        self.skipped = [name for name in self.skipped if name not in again] + outcome.skipped


def run_study(study: Study, options: Options, say: Say = print) -> Report:
    """Run all jobs of the chosen rows: trials of learning rates first, then every seed with the best one.

    What is not tuned (the teachers of all seeds) fills the first round, so that no process waits for the
    last trial. With all trials finished by an earlier call there is one round, in which students fill the
    time that a single training of a teacher leaves. Test parts are decoded in the last round only, by runs
    with the chosen learning rates.

    Raises:
        Stopped: by a signal; see `run_jobs`.
        UserError: no such row, or no prepared data.
    """
    rows = select_rows(study.recipe.results, options.rows)
    report = Report()
    trials = study.planner.trials(rows)
    trial_jobs = study.jobs(trials, "dev")
    if len(finished_jobs(study, trial_jobs)) < len(trial_jobs):
        early = {row: rate for row, rate in fixed_rates(study).items() if row in rows}
        runs = [*trials, *study.planner.runs(rows, early)]
        jobs = study.jobs(runs, "dev")
        say(f"Round 1: learning rates of {len({run.row for run in trials})} rows, {len(trials)} trials")
        report.add(run_stamped(jobs, study.exp, options.num_jobs, say, options.devices))
    rates = {row: rate for row, rate in chosen_rates(study).items() if row in rows}
    for row in rows:
        if row not in rates:
            whose = study.recipe.results.rows[row].rate_of or row
            say(f"{row}: its learning rate is not chosen, because not all trials of {whose} have finished")
    runs = study.planner.runs(rows, rates)
    say(f"Training and decoding {len(runs)} runs of {len(rates)} rows")
    jobs = study.jobs(runs, options.upto)
    report.add(run_stamped(jobs, study.exp, options.num_jobs, say, options.devices))
    return report


def describe_plan(study: Study, options: Options) -> list[str]:
    """A line per job that a call would look at: what is finished, what would run, and why again."""
    rows = select_rows(study.recipe.results, options.rows)
    rates = {row: rate for row, rate in chosen_rates(study).items() if row in rows}
    jobs = {job.name: job for job in study.jobs(study.planner.trials(rows), "dev")}
    jobs |= {job.name: job for job in study.jobs(study.planner.runs(rows, rates), options.upto)}
    stamps, finished = Stamps(study.exp / "stamps"), finished_jobs(study, list(jobs.values()))
    lines = []
    for name, job in jobs.items():
        why = "" if name in finished else stamps.why_again(job)
        lines.append(f"{'finished' if name in finished else 'to run  '}  {name}{f' ({why})' if why else ''}")
    return lines


def rows_to_repeat(study: Study, options: Options) -> list[str]:
    """The rows that a call has to name to make again what a call with these options shows; empty: all.

    Shown are rows of earlier calls too. Without rows in the options, the call makes every one.
    """
    if not options.rows:
        return []
    rows = study.recipe.results.rows
    runs = study.planner.runs(list(rows), chosen_rates(study))
    done = finished_jobs(study, study.jobs(runs, STAGES[0]))
    shown = {run.row for run in runs if run.job_name(STAGES[0]) in done}.union(options.rows)
    return [row for row in rows if row in shown] if len(shown) < len(rows) else []


def fixed_rates(study: Study) -> Rates:
    """The learning rate of every row that has nothing to choose from."""
    results = study.recipe.results
    return {
        row: results.rates(row)[0]
        for row, config in results.rows.items()
        if len(results.rates(row)) == 1 and config.rate_of is None
    }


def tuning_table(study: Study) -> dict[str, dict[float, float | None]]:
    """By tuned row: dev WER in percent of each learning rate with the first seed, None where unfinished."""
    table: dict[str, dict[float, float | None]] = {}
    trials = study.planner.trials(list(study.recipe.results.rows))
    finished = finished_jobs(study, study.jobs(trials, "dev"))
    for run in trials:
        assert run.learning_rate is not None
        wer = dev_wer(study, run) if run.job_name("dev") in finished else None
        table.setdefault(run.row, {})[run.learning_rate] = wer
    return table


def chosen_rates(study: Study) -> Rates:
    """The learning rate of every row for which it is known: fixed, the best of all its trials, or another's.

    The best has the lowest dev WER; of equals, the lowest learning rate.
    """
    chosen = fixed_rates(study)
    for row, trials in tuning_table(study).items():
        wers = {rate: wer for rate, wer in trials.items() if wer is not None}
        if len(wers) == len(trials):
            chosen[row] = min(wers, key=lambda rate: (wers[rate], rate))
    for row, config in study.recipe.results.rows.items():
        if config.rate_of in chosen:
            chosen[row] = chosen[config.rate_of]
    return chosen


def dev_wer(study: Study, run: Run) -> float:
    """Word error rate in percent of a decoded run on all dev parts together.

    Raises:
        UserError: see `check_decoded`.
    """
    mode = "offline" if run.offline else "streaming"
    folder = run.folder / "decode" / mode
    found = {part: read_object(folder / part / "summary.json") for part in study.recipe.parts("dev")}
    for part, summary in found.items():
        check_decoded(summary, folder / part, run.config.contexts[0], study.recipe.decodings()[""])
    summaries = list(found.values())
    errors = sum(sum(summary["errors"].values()) for summary in summaries)
    return float(100 * errors / sum(summary["num_words"] for summary in summaries))


def collect(study: Study, upto: str, variant: str = "") -> Evidence:
    """Every decoded run of the recipe, whichever call has trained it; see `Evidence`.

    `variant`: one of `Recipe.decodings`.

    Raises:
        UserError: a file is not as `kdasr decode` writes it, or not of this study: see `check_decoded`.
    """
    results = study.recipe.results
    decoding = study.recipe.decodings()[variant]
    runs = study.planner.runs(list(results.rows), chosen_rates(study))
    finished = finished_jobs(study, study.jobs(runs, upto))
    kinds = STAGES if upto == "test" else STAGES[:1]
    trained: list[TrainedRun] = []
    for run in runs:
        there = [kind for kind in kinds if run.job_name(f"{kind}{variant}") in finished]
        parts = [part for kind in there for part in study.recipe.parts(kind)]
        if parts:
            mode = "offline" if run.offline else "streaming"
            decoded = run.decoded(variant) / mode
            own = run.config.contexts[0]
            trained.append(read_run(run.info(), decoded, mode, parts, own, decoding))
    return Evidence(
        rows=list(results.rows),
        runs=trained,
        baselines=list(results.baselines),
        topline=results.topline,
        seeds=list(results.seeds),
        with_fewer_seeds={row: config.num_seeds for row, config in results.rows.items() if config.num_seeds},
        parts=[part for kind in kinds for part in study.recipe.parts(kind)],
        shared=[] if results.teacher_per_seed else results.teacher_chain(),
        rank_against=results.rank_against,
        against={row: config.against for row, config in results.rows.items() if config.against},
        test_parts=[part for part in study.recipe.parts("test") if part not in study.recipe.parts("dev")],
        choices=[row for row, config in results.rows.items() if not config.test],
        lines={row: config.line for row, config in results.rows.items() if config.line},
        tuned=_tuned(tuning_table(study), chosen_rates(study)),
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


def finished_jobs(study: Study, jobs: Sequence[StampedJob]) -> set[str]:
    """The names of those that have finished."""
    return Stamps(study.exp / "stamps").finished(jobs)
