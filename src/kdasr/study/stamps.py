"""Jobs with a stamp, which says what they were made of: they run again when that changes and only then."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json, write_text
from kdasr.common.job_runner import Job, Outcome, RunOptions, Say, run_jobs
from kdasr.common.processes import alone
from kdasr.experiment.differences import differences

_SHOWN = 3
"""Changes that are named where a job has to run again."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Settings = Mapping[str, Any]


def _unchanged(settings: Settings) -> Settings:
    return settings


@dataclass(frozen=True)
class StampedJob(Job):
    """A job that runs again only when what it was made of has changed. Its stamp has its name."""

    settings: Settings = field(default_factory=dict)
    """All that decides its result, besides the jobs that it needs. Plain containers."""
    outputs: Sequence[Path] = ()
    """Files that a finished job has left; without them it is not finished."""
    folder: Path | None = None
    """A folder that this job alone fills. What stands there from other settings is moved aside."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Texts that are written before the first command."""
    reread: Callable[[Settings], Settings] = _unchanged
    """Brings settings of an earlier version of the program to this one (adds new options' defaults)."""


@dataclass(frozen=True)
class Stamp:
    """The record of a job that was begun or finished."""

    id: str
    """Of this run of the job. Those that need it name it, so they notice when it has run again."""
    settings: Settings
    inputs: Mapping[str, str]
    """The jobs it needed, and the id of each."""
    finished: bool


class Stamps:
    """The stamps of an experiment folder, a file for each job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where the stamp of a job lies."""
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Stamp | None:
        """The stamp of a job; None when it was never begun.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            return Stamp(**read_json(path))
        except (TypeError, ValueError):
            raise UserError(f"{path}: not a stamp; remove it to run that job again") from None

    def write(self, job: StampedJob, id: str, finished: bool) -> None:
        """Record that this run of the job was begun or finished."""
        inputs = {name: self.id_of(name) for name in job.needs}
        stamp = {"id": id, "settings": job.settings, "inputs": inputs, "finished": finished}
        write_json(self.path(job.name), stamp)

    def id_of(self, name: str) -> str:
        """The id of the latest run of a job; empty when there was none."""
        stamp = self.read(name)
        return stamp.id if stamp else ""

    def matches(self, job: StampedJob) -> Stamp | None:
        """The stamp of this very job: the same settings, made from the same runs of the jobs it needs."""
        stamp = self.read(job.name)
        if stamp is None or dict(stamp.inputs) != {name: self.id_of(name) for name in job.needs}:
            return None
        wanted = _plain(job.settings)
        if stamp.settings == wanted:
            return stamp
        try:
            return stamp if _plain(job.reread(stamp.settings)) == wanted else None
        except UserError:
            return None  # of an option that is gone

    def finished(self, jobs: Sequence[StampedJob]) -> set[str]:
        """The jobs, in an order in which each follows those it needs, that need not run."""
        done: set[str] = set()
        for job in jobs:
            if not done.issuperset(job.needs):
                continue
            stamp = self.matches(job)
            if stamp and stamp.finished and all(path.exists() for path in job.outputs):
                done.add(job.name)
        return done

    def why_again(self, job: StampedJob) -> str:
        """What has changed since a job was run or begun; empty if nothing has, or it never was."""
        stamp = self.read(job.name)
        if stamp is None:
            return ""
        if self.matches(job):
            missing = next((path for path in job.outputs if not path.exists()), None)
            return f"{missing} is gone" if stamp.finished and missing is not None else ""
        try:
            old = _plain(job.reread(stamp.settings))
        except UserError as error:
            return str(error)
        changed = [str(difference) for difference in differences(old, _plain(job.settings))]
        if changed:
            more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
            shown = (shorten(text.removeprefix("options."), 80) for text in changed[:_SHOWN])
            return ", ".join(shown) + more
        newer = [name for name in job.needs if stamp.inputs.get(name) != self.id_of(name)]
        return f"{newer[0]} was run again" if newer else "it needs other jobs now"

    def begin(self, job: StampedJob) -> str:
        """Note that a job begins, or goes on as the run that it was begun as; why it runs again."""
        stamp = self.matches(job)
        going_on = stamp is not None and not stamp.finished
        why = self.why_again(job)
        remark = f"{job.name} again: {why}" if why else ""
        if job.folder and job.folder.exists() and not going_on:
            moved = _move_aside(job.folder, self.folder.parent / "replaced" / job.name.replace("/", "-"))
            remark += f"; what was there is in {moved}" if remark else ""
        id = stamp.id if stamp and going_on else uuid.uuid4().hex
        self.write(job, id, finished=False)
        for path, text in job.files.items():
            write_text(path, text)
        return remark

    def end(self, job: StampedJob) -> str:
        """Note that a job has finished, unless it has not left what it should; then says so."""
        missing = next((path for path in job.outputs if not path.exists()), None)
        if missing is not None:
            return f"to leave {missing}"
        self.write(job, self.id_of(job.name), finished=True)
        return ""


def run_stamped(
    jobs: Sequence[StampedJob],
    exp: Path,
    num: int,
    say: Say = print,
    devices: Sequence[Sequence[str]] = (),
) -> Outcome:
    """Run every job that is not finished, each with one thread; logs in `exp/log`, stamps in `exp/stamps`.

    `devices`: see `RunOptions`.

    Raises:
        Stopped: by a signal; see `run_jobs`.
        UserError: another driver, or a job that one has left behind, is at work in this folder.
    """
    with alone(exp, "`kdasr results`") as lock:
        options = RunOptions(exp / "log", num, environment=ONE_THREAD, keep_open=(lock,), devices=devices)
        return run_jobs(jobs, options, Stamps(exp / "stamps"), say)


def _plain(settings: Settings) -> Any:
    return json.loads(json.dumps(settings))


def _move_aside(folder: Path, target: Path) -> Path:
    """Move `folder` to `target-1`, or the first number that is free: nobody's training is deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while (moved := target.with_name(f"{target.name}-{number}")).exists():
        number += 1
    folder.rename(moved)
    return moved
