"""Runs jobs in the order of what they need, several side by side, each with a log of its own."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO

from kdasr.common.errors import UserError
from kdasr.common.signals import handling_stops
from kdasr.study.stamps import Job, Stamps

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
"""How long a stopped job may take to save its checkpoint before it is killed."""
TAIL_LINES = 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Say = Callable[[str], None]


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """The user has stopped the driver. What was running can go on with the next call."""


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


@dataclass
class _Running:
    job: Job
    id: str
    log: Path
    step: int
    process: subprocess.Popen[bytes]
    started: float


def run_jobs(jobs: Sequence[Job], exp: Path, num: int, say: Say = print) -> Outcome:
    """Run every job that is not finished, at most `num` side by side, the first ones first.

    A job starts when those it needs have finished. One that fails is reported with the end of its log,
    those that need it are skipped, and the others go on. Logs are in `exp/log`, stamps in `exp/stamps`.

    Args:
        jobs: each after those it needs.
        exp: the experiment folder.
        num: processes; each has one thread.
        say: receives a line per event.

    Raises:
        Stopped: SIGINT or SIGTERM. The running jobs were told to stop and have ended; a second signal
            kills them.
        UserError: another driver, or a job that one has left behind, is at work in this folder.
    """
    with _alone(exp) as lock, _StopRequest().listening() as stop:
        crew = _Crew(Stamps(exp / "stamps"), exp / "log", lock, say)
        try:
            return _run(jobs, crew, num, stop)
        finally:
            crew.stop(stop)


def _run(jobs: Sequence[Job], crew: "_Crew", num: int, stop: "_StopRequest") -> Outcome:
    finished = crew.stamps.finished(jobs)
    outcome = Outcome(unchanged=[job.name for job in jobs if job.name in finished])
    waiting = [job for job in jobs if job.name not in finished]
    total = len(waiting)
    while waiting or crew.running:
        if stop.asked:
            raise Stopped(f"stopped; {len(outcome.finished)} of {total} jobs finished")
        hopeless = {*outcome.failed, *outcome.skipped}
        for job in list(waiting):
            if hopeless.intersection(job.needs):
                waiting.remove(job)
                hopeless.add(job.name)
                outcome.skipped.append(job.name)
        ready = [job for job in waiting if outcome.complete.issuperset(job.needs)]
        for job in ready[: num - len(crew.running)]:
            waiting.remove(job)
            crew.start(job)
        assert crew.running or not waiting, "a job needs one that is not among the jobs before it"
        ended = crew.poll()
        for name, succeeded in ended:
            (outcome.finished if succeeded else outcome.failed).append(name)
            crew.say(f"  {len(outcome.finished)} of {total} jobs finished")
        if not ended:
            time.sleep(POLL_SECONDS)
    return outcome


class _Crew:
    """The processes that run now."""

    def __init__(self, stamps: Stamps, logs: Path, lock: int, say: Say) -> None:
        self.stamps, self.logs, self.lock, self.say = stamps, logs, lock, say
        self.running: list[_Running] = []

    def start(self, job: Job) -> None:
        id = self.stamps.begin(job)
        log = self.logs / f"{job.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.say(f"started {job.name}; log: {log}")
        self.running.append(_Running(job, id, log, 0, self._spawn(job.commands[0], log), time.monotonic()))

    def _spawn(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            # A group of its own, so that Ctrl-C reaches the driver alone, which then tells each job once.
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | ONE_THREAD,
                start_new_session=True,
                pass_fds=(self.lock,),
            )

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
                running.process = self._spawn(job.commands[running.step], running.log)
                continue
            self.running.remove(running)
            ended.append((job.name, self._close(running, status)))
        return ended

    def _close(self, running: _Running, status: int) -> bool:
        job = running.job
        missing = [path for path in job.outputs if not path.exists()]
        if status == 0 and not missing:
            self.stamps.write(job, running.id, finished=True)
            minutes, seconds = divmod(round(time.monotonic() - running.started), 60)
            self.say(f"finished {job.name} in {minutes}:{seconds:02d}")
            return True
        reason = f"with status {status}" if status else f"to leave {missing[0]}"
        self.say(f"{job.name} failed {reason}; the end of {running.log}:\n{_tail(running.log)}")
        return False

    def stop(self, request: "_StopRequest") -> None:
        """End what still runs: politely first, by force after `PATIENCE_SECONDS` or a second signal."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(running.process.poll() is None for running in self.running):
            if request.insisted or time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        self.running.clear()

    def _signal(self, number: int) -> None:
        for running in self.running:
            if running.process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(running.process.pid, number)


class _StopRequest:
    """Whether signals have asked for a stop, and how urgently."""

    def __init__(self) -> None:
        self.asked = False
        self.insisted = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.insisted = self.asked
        self.asked = True

    @contextmanager
    def listening(self) -> Iterator["_StopRequest"]:
        with handling_stops(self._on_signal):
            yield self


@contextmanager
def _alone(exp: Path) -> Iterator[int]:
    """Hold the lock of an experiment folder; its descriptor.

    Jobs inherit the descriptor, so the lock also outlives a driver that was killed while they run on.
    """
    exp.mkdir(parents=True, exist_ok=True)
    file: IO[str]
    with (exp / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{exp}: another `kdasr results`, or a job that one has left behind, is at work there"
            ) from None
        yield file.fileno()


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
