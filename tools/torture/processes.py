"""Commands in processes of their own, which can be killed.

They are forked from a process that has all modules loaded (Python's fork server), so that a kill meets the
work of a command and seldom its imports. Processes that train together find each other as torchrun lets them.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver, get_context
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
        _warm_up()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        # The file is opened anew there: descriptors of this process mean nothing to a forked one.
        path = f"/proc/{os.getpid()}/fd/{self._output.fileno()}"
        fork = get_context("forkserver")
        self._processes = [
            fork.Process(target=_run_here, args=(command.arguments, str(folder), path, variables))
            for variables in _ranks(command.processes)
        ]
        for process in self._processes:
            process.start()

    def wait(self, seconds: float) -> int | None:
        """Its status after at most so long; None while it runs."""
        end = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        states = [process.exitcode for process in self._processes]
        return None if None in states else next((state for state in states if state), 0)

    def kill(self) -> None:
        """Kill it and all that it has started, wherever they have moved since."""
        for process in self._processes:
            assert process.pid is not None
            for pid in [process.pid, *_descendants(process.pid)]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.wait(60.0)

    def finish(self, seconds: float = LONGEST) -> tuple[str, int]:
        """Output and status when it is left alone; one that hangs is killed."""
        status = self.wait(seconds)
        if status is None:
            self.kill()
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        if status is None:
            return f"{output}\nError: no end after {seconds:g} s", -1
        return output, status


def _ranks(count: int) -> list[dict[str, str]]:
    """The variables by which each of so many processes finds the others; none for a single one."""
    if count == 1:
        return [{}]
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": f"{port}", "WORLD_SIZE": f"{count}"}
    shared |= {"LOCAL_WORLD_SIZE": f"{count}", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "torture"}
    return [{**shared, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}"} for rank in range(count)]


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


def _run_here(arguments: tuple[str, ...], folder: str, output: str, variables: dict[str, str]) -> None:
    """The command line, in a process that does nothing else."""
    os.environ |= variables
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
