"""Locks between processes: one at a time, some together, and none where the file system has none."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.common.locks import locked, process_lock
from kdasr.common.processes import alone


def test_one_holds_a_lock_and_several_share_one(tmp_path: Path) -> None:
    with locked(tmp_path) as mine:
        assert mine
        for shared in (False, True):
            with locked(tmp_path, wait=False, shared=shared) as theirs:
                assert not theirs
    with locked(tmp_path, shared=True) as mine, locked(tmp_path, wait=False, shared=True) as theirs:
        assert mine and theirs
        with locked(tmp_path, wait=False) as alone_there:
            assert not alone_there
    with alone(tmp_path, "call"), pytest.raises(UserError, match="another call"), alone(tmp_path, "call"):
        pass


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EBADF, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(handle: int, operation: int) -> None:
        raise OSError(error, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path) as one, locked(tmp_path, wait=False) as other, alone(tmp_path, "call"):
        assert one and other
    with process_lock(tmp_path / "lock") as held:
        assert held


def test_the_lock_of_a_process_ends_with_it_whatever_it_has_started(tmp_path: Path) -> None:
    holder = f"""
import os, sys, time
from pathlib import Path
from kdasr.common.locks import process_lock
with process_lock(Path({str(tmp_path / "lock")!r})) as held:
    if not os.fork():
        time.sleep(600)
    print(held, flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "True\n"
            with process_lock(tmp_path / "lock") as held:
                assert not held
            process.kill()  # its child lives on
            process.wait()
            with process_lock(tmp_path / "lock") as held:
                assert held
        finally:
            os.killpg(process.pid, signal.SIGKILL)
