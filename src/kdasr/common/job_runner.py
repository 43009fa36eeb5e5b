"""Runs jobs in the order of what they need, several side by side, each with a log of its own."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from kdasr.common.devices import VISIBLE
from kdasr.common.processes import Command, Process, StopRequest, stop_processes

POLL_SECONDS = 0.05
PROGRESS_SECONDS = 30.0
"""After so long without an event, a line per running job says how far it is."""
TAIL_LINES = 20
LINE_WIDTH = 130
"""Of a line of progress."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """Commands that run one after another once other jobs have finished."""

    name: str
    """Unique; also the name of its log below the folder of logs, so it may hold slashes."""
    commands: Sequence[Command]
    needs: Sequence[str] = ()
    """Jobs that must have finished; where one of them fails, this job is skipped."""
    after: Sequence[str] = ()
    """Jobs that must have ended in whatever way, if they run at all."""
    stage: str = ""
    """The part of a recipe that it belongs to; said as a heading."""


JobT_contra = TypeVar("JobT_contra", bound=Job, contravariant=True)
JobT = TypeVar("JobT", bound=Job)


class Record(Protocol[JobT_contra]):
    """Knows which jobs earlier calls have finished, and keeps what becomes of those of this call."""

    def finished(self, jobs: Sequence[JobT_contra]) -> set[str]:
        """The jobs that need not run."""

    def begin(self, job: JobT_contra) -> str:
        """A job begins or goes on; returns what is to be said of it, or an empty text."""

    def end(self, job: JobT_contra) -> str:
        """All commands have succeeded; returns what is wrong all the same, or an empty text."""


class NoRecord:
    """Every job runs; its commands know for themselves what they have finished."""

    def finished(self, jobs: Sequence[Job]) -> set[str]:
        return set()

    def begin(self, job: Job) -> str:
        return ""

    def end(self, job: Job) -> str:
        return ""


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The user has stopped the jobs. What was running can go on with the next call."""

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text)
        self.signal = signal


@dataclass(frozen=True)
class RunOptions:
    """How jobs are run."""

    logs: Path
    """Folder of the logs."""
    num: int = 1
    """Jobs side by side."""
    show: Sequence[str] = ()
    """Jobs whose whole log is said when they end."""
    foreground: bool = False
    """No logs: jobs write to the output of this process. For one job at a time."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of that of this process."""
    keep_open: Sequence[int] = ()
    """File descriptors that the jobs inherit."""
    devices: Sequence[Sequence[str]] = ()
    """GPUs of each of the `num` jobs that run side by side: a job sees those of a place that is free. Without
    any, all jobs see what this process sees."""
    progress_seconds: float = PROGRESS_SECONDS


@dataclass
class Outcome:
    """What became of every job."""

    unchanged: list[str] = field(default_factory=list)
    """Finished by an earlier call."""
    finished: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """They need a job that failed."""

    @property
    def complete(self) -> set[str]:
        """The jobs whose results are there."""
        return {*self.unchanged, *self.finished}

    @property
    def hopeless(self) -> set[str]:
        """The jobs that this call does not finish any more."""
        return {*self.failed, *self.skipped}


def run_jobs(
    jobs: Sequence[JobT], options: RunOptions, record: Record[JobT] | None = None, say: Say = print
) -> Outcome:
    """Run every job that is not finished, at most `options.num` side by side, the first ones first.

    A job starts when those it needs have finished. One that fails is reported with the end of its log,
    those that need it are skipped, and the others go on.

    Args:
        jobs: each after those it needs.
        options: how.
        record: None: none of them is finished.
        say: receives a line per event.

    Raises:
        Stopped: SIGINT, SIGTERM or SIGHUP. The running jobs were told to stop and have ended; a second signal
            kills them.
    """
    with StopRequest().listening() as stop:
        pool = _Pool(options, record or NoRecord(), say)
        try:
            return _run(jobs, pool, stop)
        finally:
            stop_processes([running.process for running in pool.running], stop)


def _run(jobs: Sequence[JobT], pool: "_Pool[JobT]", stop: StopRequest) -> Outcome:
    finished = pool.record.finished(jobs)
    outcome = Outcome(unchanged=[job.name for job in jobs if job.name in finished])
    waiting = [job for job in jobs if job.name not in finished]
    total = len(waiting)
    while waiting or pool.running:
        if stop.number is not None:
            raise Stopped(f"stopped; {len(outcome.finished)} of {total} jobs finished", stop.number)
        waiting = _skip(waiting, outcome)
        for job in _ready(waiting, outcome)[: pool.options.num - len(pool.running)]:
            waiting.remove(job)
            pool.start(job)
        assert pool.running or not waiting, "a job needs one that is not among the jobs before it"
        ended = pool.poll()
        for name, succeeded in ended:
            (outcome.finished if succeeded else outcome.failed).append(name)
            pool.say(f"  {len(outcome.finished)} of {total} jobs finished")
        if not ended:
            pool.show_progress()
            time.sleep(POLL_SECONDS)
    return outcome


def _skip(waiting: Sequence[JobT], outcome: Outcome) -> list[JobT]:
    """Note the jobs that can never start; returns the others."""
    kept = []
    for job in waiting:
        if outcome.hopeless.intersection(job.needs):
            outcome.skipped.append(job.name)
        else:
            kept.append(job)
    return kept


def _ready(waiting: Sequence[JobT], outcome: Outcome) -> list[JobT]:
    """The jobs that may start now."""
    ended = outcome.complete | outcome.hopeless
    return [job for job in waiting if outcome.complete.issuperset(job.needs) and ended.issuperset(job.after)]


@dataclass
class _Running(Generic[JobT]):
    job: JobT
    log: Path | None
    step: int
    process: Process
    started: float
    place: int
    """Among those that run side by side."""


class _Pool(Generic[JobT]):
    """The jobs that run now."""

    def __init__(self, options: RunOptions, record: Record[JobT], say: Say) -> None:
        assert options.num == 1 or not options.foreground
        assert len(options.devices) in (0, options.num)
        self.options, self.record, self.say = options, record, say
        self.running: list[_Running[JobT]] = []
        self._stage = ""
        self._last_event = time.monotonic()

    def start(self, job: JobT) -> None:
        if job.stage != self._stage:
            self._stage = job.stage
            self.say(f"\n== {job.stage}  [{_clock()}]")
        if remark := self.record.begin(job):
            self.say(remark)
        place = min(set(range(self.options.num)) - {running.place for running in self.running})
        log = None if self.options.foreground else self.options.logs / f"{job.name}.log"
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            where = f" on GPU {', '.join(self.options.devices[place])}" if self.options.devices else ""
            self.say(f"started {job.name}{where}; log: {log}")
        process = self._spawn(job.commands[0], log, place)
        self.running.append(_Running(job, log, 0, process, time.monotonic(), place))
        self._last_event = time.monotonic()

    def _spawn(self, command: Command, log: Path | None, place: int) -> Process:
        environment = os.environ | dict(self.options.environment)
        if self.options.devices:
            environment[VISIBLE] = ",".join(self.options.devices[place])
        return Process(command, log, environment, self.options.keep_open)

    def poll(self) -> list[tuple[str, bool]]:
        """Name and success of the jobs that have ended; starts the next command of the others."""
        ended = []
        for running in list(self.running):
            status = running.process.poll()
            if status is None:
                continue
            job = running.job
            if status == 0 and running.step + 1 < len(job.commands):
                running.step += 1
                running.process = self._spawn(job.commands[running.step], running.log, running.place)
                continue
            self.running.remove(running)
            ended.append((job.name, self._close(running, status)))
            self._last_event = time.monotonic()
        return ended

    def _close(self, running: _Running[JobT], status: int) -> bool:
        job, log = running.job, running.log
        problem = f"with status {status}" if status else self.record.end(job)
        shown = log is not None and job.name in self.options.show
        if problem:
            text = f"{job.name} failed {problem}"
            if log is not None:
                text += f"; {'its log' if shown else 'the end of its log'}, {log}:"
        else:
            minutes, seconds = divmod(round(time.monotonic() - running.started), 60)
            text = f"finished {job.name} in {minutes}:{seconds:02d}  [{_clock()}]"
        if log is not None and (shown or problem):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            text += "".join(f"\n    {line}" for line in (lines if shown else lines[-TAIL_LINES:]))
        self.say(text)
        return not problem

    def show_progress(self) -> None:
        """The last line of every log, when nothing has happened for a while."""
        if time.monotonic() - self._last_event < self.options.progress_seconds:
            return
        self._last_event = time.monotonic()
        for running in self.running:
            if running.log is not None:
                self.say(f"  {running.job.name:<28} {_last_line(running.log)[:LINE_WIDTH]}")


def _last_line(log: Path) -> str:
    """What a log says last; of a bar that is drawn over itself, its present state."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _clock() -> str:
    return time.strftime("%H:%M:%S")
