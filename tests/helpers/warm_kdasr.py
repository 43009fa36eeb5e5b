"""The `kdasr` command for scripts, forked from a process that has imported what it needs.

A start of Python with torch and lhotse costs seconds, and a recipe starts `kdasr` dozens of times. Here each
call is a process of its own as well, with its arguments, folder, environment, standard streams, signals and
exit status; only the imports are shared.
"""

import atexit
import importlib
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import warm_client

IMPORTED = (
    "kdasr.cli.main",
    "kdasr.corpora.prepare",
    "kdasr.evaluation.calibrate",
    "kdasr.evaluation.part_run",
    "kdasr.experiment.run",
    "kdasr.labeling.run",
    "kdasr.report.build",
    "lhotse",
    "torch._dynamo",
    "torch.utils.tensorboard",
)


@cache
def warm_folder() -> Path:
    """A folder for PATH that has this `kdasr` (elsewhere than on Linux, the real one).

    Its server ends with the process that has asked for it, and removes the folder.
    """
    if sys.platform != "linux":
        return Path(sys.executable).parent
    folder = Path(tempfile.mkdtemp(prefix="kdasr-"))
    place, script = folder / "socket", folder / "bin" / "kdasr"
    client = shlex.join([sys.executable, "-I", "-S", warm_client.__file__, str(place)])
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {client} "$@"\n')
    script.chmod(0o755)
    # It listens from the first: calls wait until all is imported.
    with socket.socket(socket.AF_UNIX) as listener, (folder / "server.log").open("wb") as log:
        listener.bind(str(place))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), str(folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    atexit.register(server.communicate)  # closes its input, which ends it
    return script.parent


def serve(listener: socket.socket, folder: str) -> list[str]:
    """Fork a process for every call, until the standard input ends. Returns in those processes alone.

    Returns:
        The arguments of the call.
    """
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fd == sys.stdin.fileno():
                for other in selector.get_map().values():
                    if isinstance(other.data, int):
                        os.kill(other.data, signal.SIGKILL)
                shutil.rmtree(folder)
                sys.exit()
            elif key.fileobj is listener:
                connection, request, streams = receive(listener)
                if request is None:
                    continue
                child = os.fork()
                if child == 0:
                    become(request, streams)
                    return list(request["arguments"])
                for stream in streams:
                    os.close(stream)
                selector.register(connection, selectors.EVENT_READ, child)
                selector.register(os.pidfd_open(child), selectors.EVENT_READ, (child, connection))
            elif isinstance(key.data, tuple):
                child, connection = key.data
                selector.unregister(key.fd)
                os.close(key.fd)
                with suppress(KeyError):
                    selector.unregister(connection)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with suppress(OSError):
                    connection.sendall(status.to_bytes(4, "big", signed=True))
                connection.close()
            elif key.fileobj.fileno() == key.fd:  # type: ignore[union-attr]
                numbers = key.fileobj.recv(16)  # type: ignore[union-attr]
                if not numbers:  # the client was killed
                    selector.unregister(key.fileobj)
                for number in numbers or [signal.SIGKILL]:
                    os.kill(key.data, number)


def receive(listener: socket.socket) -> tuple[socket.socket, dict[str, Any] | None, list[int]]:
    """The next connection, what it asks for, and its standard streams; None where the client has gone."""
    connection, _ = listener.accept()
    length, streams, _, _ = socket.recv_fds(connection, 4, 3)
    content = b""
    while len(content) < int.from_bytes(length, "big") and (more := connection.recv(1 << 16)):
        content += more
    if len(streams) == 3 and len(content) == int.from_bytes(length, "big"):
        return connection, json.loads(content), list(streams)
    connection.close()
    return connection, None, []


def become(request: dict[str, Any], streams: list[int]) -> None:
    """Make this process that of the call."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in warm_client.FORWARDED:
        heeded = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else heeded)


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    [_] = Path("/proc/self/task").iterdir()  # other threads would be missing after a fork
    from kdasr.cli.main import main

    sys.argv = ["kdasr", *serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])]
    main()
