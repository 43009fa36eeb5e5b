"""Mutated files: many of each kind, in one process of its own, so that its end is noticed too."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torture_parts.base import Base, write_base
from torture_parts.binary_kinds import Checkpoint, Cuts, Flac, Graph, Pieces, TokenTable, Wav
from torture_parts.kinds import Alignment, BundleManifest, Kind, Phrases, Recipe, Transcript

KINDS: tuple[type[Kind], ...] = (
    *(Flac, Wav, Cuts, Transcript, Alignment, Pieces, TokenTable, Checkpoint, Graph, BundleManifest, Recipe),
    Phrases,
)
SECONDS = 30
"""Of one trial; more is a fault."""
FAULTS = ("traceback", "several lines", "wrong", "hang", "crash")


class Trial(NamedTuple):
    """What one mutation came to."""

    kind: str
    index: int
    what: str
    outcome: str
    """`refused`, `right`, or one of `FAULTS`."""
    detail: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether kdasr did something that it should not."""
        return self.outcome in FAULTS


class _Hang(BaseException):
    """A trial took too long."""


def try_kind(kind: Kind, seed: int, indices: Sequence[int]) -> Iterator[Trial]:
    """Mutate the kind's file, let kdasr read it, and judge; the file is as it was afterwards."""
    content = kind.victim.read_bytes()
    if isinstance(kind, Pieces):
        kind.whole_content = content
    with tempfile.TemporaryDirectory() as scratch:
        whole = _plain(kind.read(Path(scratch) / "whole"))
    for index in indices:
        rng = random.Random(f"{seed} {kind.name} {index}")
        what, changed = kind.mutate(content, rng)
        try:
            _replace(kind.victim, changed)
            yield _try(kind, index, what, changed, whole)
        finally:
            _replace(kind.victim, content)


def _try(kind: Kind, index: int, what: str, changed: bytes, whole: Any) -> Trial:
    import click

    from kdasr.common.errors import UserError

    scratch = Path(tempfile.mkdtemp())
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(SECONDS)
    try:
        value = _plain(kind.read(scratch / "out"))
    except UserError as error:
        outcome = "refused" if len(str(error)) > 0 and "\n" not in str(error) else "several lines"
        return Trial(kind.name, index, what, outcome, str(error)[:300])
    except click.ClickException as error:
        return Trial(kind.name, index, what, "refused", error.format_message())
    except _Hang:
        return Trial(kind.name, index, what, "hang", f"more than {SECONDS} s")
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(last))
        return Trial(
            kind.name, index, what, "traceback", f"{type(error).__name__}: {str(error)[:200]} ({where})"
        )
    finally:
        signal.alarm(0)
        shutil.rmtree(scratch)
    try:
        fault = kind.right(changed, value, whole)
    except Exception as error:  # the oracle cannot read it, and kdasr can
        fault = f"taken, where an independent reader says {type(error).__name__}: {str(error)[:100]}"
    return Trial(kind.name, index, what, "wrong" if fault else "right", fault or "")


def _replace(path: Path, content: bytes) -> None:
    """Write a file anew: another inode, another time."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def _hang(*_: object) -> None:
    raise _Hang


def run_mutations(
    work: Path, seed: int, count: int, deadline: float, kinds: Sequence[str] = ()
) -> list[Trial]:
    """`count` mutations of each kind, in child processes; stops at `deadline` (of `time.monotonic`).

    A child that dies is a fault of the trial that it was at; the next child goes on after that one.
    """
    wanted = [kind.name for kind in KINDS if not kinds or kind.name in kinds]
    trials: list[Trial] = []
    for number, name in enumerate(wanted):
        next_index = 0
        until = time.monotonic() + (deadline - time.monotonic()) / (len(wanted) - number)
        while next_index < count and time.monotonic() < until:
            done, died = _child(work, seed, name, next_index, count, until)
            trials += done
            next_index += len(done)
            if died:
                trials.append(Trial(name, next_index, "?", "crash", died))
                next_index += 1
            elif not done:
                break
    return trials


def _child(work: Path, seed: int, name: str, first: int, count: int, until: float) -> tuple[list[Trial], str]:
    """Trials of one child process, and how it died (empty: it did not)."""
    command = [
        sys.executable,
        "-m",
        "torture_parts.mutations",
        str(work),
        str(seed),
        name,
        str(first),
        str(count),
    ]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    errors = work / "stderr.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=max(30.0, until - time.monotonic() + SECONDS))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
    trials = [Trial(*json.loads(line)) for line in output.splitlines() if line.startswith("[")]
    if process.returncode == 0 or process.returncode == -signal.SIGKILL:
        return trials, ""
    last = errors.read_text(errors="replace").strip().splitlines()[-1:]
    return trials, f"exit status {process.returncode}: {''.join(last)[:200]}"


def main(work: Path, seed: int, name: str, first: int, count: int) -> None:
    """The child: one kind's trials as lines of JSON."""
    import faulthandler
    import logging
    import resource

    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    logging.disable(logging.CRITICAL)
    base = write_base(work / "base")
    kind = next(kind for kind in KINDS if kind.name == name)(base)
    for trial in try_kind(kind, seed, range(first, count)):
        print(json.dumps(list(trial)), flush=True)


def copy_base(base: Base, target: Path) -> Base:
    """Another copy, to mutate."""
    shutil.copytree(base.root, target)
    return Base(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
