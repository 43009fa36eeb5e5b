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


@contextmanager
def process_lock(path: Path) -> Iterator[bool]:
    """Hold a lock of this process alone within the block; whether it is held, without waiting.

    What this process starts does not inherit it, so that it ends with the process, however that ends. Within
    one process it excludes nobody.

    Args:
        path: a file that nothing else opens; made if absent.
    """
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # both are said of a lock that another process has
            yield False
            return
        except OSError:  # no locks there
            pass
        yield True
