"""Commands in processes of their own, which can be killed.

Most are forked from a process that has all modules loaded (Python's fork server), so that a kill meets the
work of a command and seldom its imports. Those of several processes are launched as a user launches them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
LONGEST = 900.0
"""Seconds; a command that takes more hangs."""


@dataclass(frozen=True)
class Command:
    """What is run in a folder that holds what it needs, and where its results go."""

    name: str
    arguments: tuple[str, ...]
    results: str
    processes: int = 1


class Running:
    """A command that has been started in a folder."""

    def __init__(self, command: Command, folder: Path) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self._process: BaseProcess | subprocess.Popen[bytes]
        if command.processes == 1:
            _warm_up()
            # Its file is opened anew there: descriptors of this process mean nothing to a forked one.
            path = f"/proc/{os.getpid()}/fd/{self._output.fileno()}"
            arguments = (command.arguments, str(folder), path)
            self._process = get_context("forkserver").Process(target=_run_here, args=arguments)
            self._process.start()
            assert self._process.pid is not None
            self._pid = self._process.pid
        else:
            launcher = [
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={command.processes}",
            ]
            line = [sys.executable, *launcher, "-m", "kdasr", *command.arguments]
            self._process = subprocess.Popen(
                line,
                cwd=folder,
                env={**os.environ, **ENVIRONMENT},
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Its status after at most so long; None while it runs."""
        if isinstance(self._process, BaseProcess):
            self._process.join(seconds)
            return self._process.exitcode
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def kill(self) -> None:
        """Kill it and all that it has started, wherever they have moved since."""
        for pid in [self._pid, *_descendants(self._pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait(60.0)

    def finish(self, seconds: float = LONGEST) -> tuple[str, int]:
        """Output and status when it is left alone; one that hangs is killed."""
        status = self.wait(seconds)
        if status is None:
            self.kill()
            return f"no end after {seconds:g} s", -1
        self._output.seek(0)
        return self._output.read().decode(errors="replace"), status


@cache
def _warm_up() -> None:
    """Begin the process that others are forked from; it finds modules by its environment alone."""
    before = os.environ.copy()
    os.environ |= {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        forkserver.set_forkserver_preload(["torture.preloaded"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ |= before


def _run_here(arguments: tuple[str, ...], folder: str, output: str) -> None:
    """The command line, in a process that does nothing else."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.chdir(folder)
    sys.argv = ["kdasr", *arguments]
    import torch

    from kdasr.cli.main import main

    torch.set_num_threads(1)
    main()


def run(command: Command, folder: Path) -> float:
    """Run a command undisturbed; returns how long it took, in seconds."""
    started = time.monotonic()
    output, status = Running(command, folder).finish()
    if status:
        raise RuntimeError(f"{command.name} fails undisturbed:\n{output}")
    return time.monotonic() - started


def _descendants(pid: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found[1:]
