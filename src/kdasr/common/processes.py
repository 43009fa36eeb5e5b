"""Processes that are started, and stopped so that each can save its work."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from kdasr.common.errors import UserError
from kdasr.common.locks import lock
from kdasr.common.signals import handling_stops

POLL_SECONDS = 0.05
PATIENCE_SECONDS = 120.0
"""How long a stopped process may take to save its checkpoint before it is killed."""


Command = Sequence[str] | str
"""The words of a command, or a line for bash."""


class Process:
    """A command that runs in a process group of its own.

    So Ctrl-C reaches the parent alone, which then tells each process once.
    """

    def __init__(
        self,
        command: Command,
        log: Path | None,
        environment: Mapping[str, str],
        keep_open: Sequence[int] = (),
    ) -> None:
        """Start it; with a log, its output goes to the end of that, below a line with the command."""
        is_line = isinstance(command, str)
        with log.open("ab") if log is not None else nullcontext() as file:
            if file is not None:
                file.write(f"$ {command if is_line else shlex.join(command)}\n".encode())
                file.flush()
            self._process = subprocess.Popen(
                ["bash", "-c", str(command)] if is_line else list(command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT if file else None,
                env=environment,
                start_new_session=True,
                pass_fds=keep_open,
            )

    def poll(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """Send a signal to the process and all that it has started, if it still runs."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class StopRequest:
    """Whether SIGINT, SIGTERM or a closed terminal (SIGHUP) has asked for a stop, and how urgently."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal."""
        self.insisted = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number
        else:
            self.insisted = True

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Take the signals within the block."""
        with handling_stops(self._on_signal, signal.SIGHUP):
            yield self


def stop_processes(processes: Sequence[Process], request: StopRequest) -> None:
    """End what still runs: politely first, by force after `PATIENCE_SECONDS` or a second signal."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(process.poll() is None for process in processes):
        if request.insisted or time.monotonic() > deadline:
            for process in processes:
                process.send(signal.SIGKILL)
        time.sleep(POLL_SECONDS)


@contextmanager
def alone(folder: Path, who: str) -> Iterator[int]:
    """Hold the lock of a folder, where the file system has locks; its descriptor.

    Processes that inherit the descriptor hold the lock too, so it outlives a parent that was killed while
    they run on.

    Raises:
        UserError: another holds it; it says that another `who` is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file: IO[str]
    with (folder / ".lock").open("w") as file:
        if not lock(file.fileno(), wait=False):
            raise UserError(f"{folder}: another {who}, or a job that one has left behind, is at work there")
        yield file.fileno()
