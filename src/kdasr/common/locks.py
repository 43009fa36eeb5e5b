"""Locks of files and folders between processes, where the file system has them.

Some network file systems refuse every lock (ENOLCK), or one of a folder (EBADF). Nothing is locked there: one
call at a time is then up to the user.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def lock(handle: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file or folder until it is closed; False: somebody else has it, and this did not wait."""
    operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # no locks there
        pass
    return True


@contextmanager
def locked(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[bool]:
    """Hold the lock of a file or folder within the block; whether it is held, see `lock`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield lock(handle, wait=wait, shared=shared)
    finally:
        os.close(handle)
