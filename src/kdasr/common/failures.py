"""What went wrong outside of the program, in one line: a full disk, no rights, no memory, a killed worker."""

import errno
from pathlib import Path

DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "remote process exit",
    "gloo/transport",
    "got 0 bytes",
    "NCCL communicator was aborted",
)
_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "not enough memory",
)
_NOT_OURS = (errno.EPIPE, errno.EINTR, errno.ECHILD)


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write lacked space: torch's zip writer hides the OSError behind a RuntimeError."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, OSError) and chain.errno in DISK_ERRORS:
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or on a GPU; torch says so in words."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _MEMORY)


def is_killed_worker(error: BaseException) -> bool:
    """Whether a data loader's worker process has died."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


def is_lost_process(error: BaseException) -> bool:
    """Whether another process of a distributed training has gone; gloo and NCCL say so in words."""
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _GONE)


def explain(error: BaseException) -> str | None:
    """One line for the user; None for what is no fault of the outside, and should be seen as it is."""
    if is_disk_full(error):
        return f"{_place(error)}the disk is full. Free some space, and the same command goes on"
    if is_out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    if is_killed_worker(error):
        return (
            f"{first_line(error)}: perhaps memory ran out; the same command goes on from the last checkpoint"
        )
    if is_lost_process(error):
        return "another process of this training has ended: what it says is the reason"
    if isinstance(error, OSError) and error.errno is not None and error.errno not in _NOT_OURS:
        return f"{_place(error)}{(error.strerror or first_line(error))}"
    return None


def first_line(error: BaseException) -> str:
    """The beginning of what an exception says."""
    return (str(error).strip().split("\n") or [""])[0][:200] or type(error).__name__


def _place(error: BaseException) -> str:
    chain: BaseException | None = error
    while chain is not None:
        name = getattr(chain, "filename", None)
        if isinstance(name, str | bytes | Path) and name:
            return f"{name.decode(errors='replace') if isinstance(name, bytes) else name}: "
        chain = chain.__cause__ or chain.__context__
    return ""
