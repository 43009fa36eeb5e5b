"""Locks between processes: one at a time, some together, and none where the file system has none."""

import errno
import fcntl
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.common.locks import locked
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
    with locked(tmp_path) as one, locked(tmp_path, wait=False) as other, alone(tmp_path, "call"):
        assert one and other
