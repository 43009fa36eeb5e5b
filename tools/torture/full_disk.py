"""Commands on a disk that gets full at a random point, and run again when there is room."""

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

from torture.kills import Reference, compare, digests, what_is_said
from torture.processes import Running

ROOM = 1 << 20
"""Bytes; the size of a small file system grows by whole pages anyhow."""


def can_mount(folder: Path) -> bool:
    """Whether small file systems can be made here."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or _mount(folder, ROOM):
        return False
    _unmount(folder)
    return True


def fill_and_resume(reference: Reference, draws: Random) -> str:
    """Run on a disk with too little room, then with enough. Returns what is wrong, or nothing."""
    work = reference.run
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    before, after = _size(reference.before), _size(reference.before) + _written(reference)
    size = int(before + 0.1 * ROOM + draws.random() * max(ROOM, after - before))
    if status := _mount(work, size):
        return f"cannot mount: status {status}"
    try:
        shutil.copytree(reference.before, work, symlinks=True, dirs_exist_ok=True)
        output, status = Running(reference.command, work).finish()
        if status and "Traceback" in output:
            return f"a traceback: {what_is_said(output)}"
        subprocess.run(["mount", "-o", f"remount,size={4 * after + (1 << 30)}", str(work)], check=True)
        output, status = Running(reference.command, work).finish()
        if status:
            return f"with room again: status {status}: {what_is_said(output)}"
        return compare(reference.results, digests(work, reference.command.results))
    except OSError as error:
        return "" if error.errno == 28 else str(error)  # too small for what the command needs
    except shutil.Error:
        return ""
    finally:
        _unmount(work)


def _size(folder: Path) -> int:
    """Bytes of a folder in whole pages, as a file system in memory counts."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _written(reference: Reference) -> int:
    """Bytes that the command leaves; temporary copies come on top."""
    return max(ROOM, sum(1 for _ in reference.results) * 4096 + _size(reference.before) // 4)


def _mount(folder: Path, size: int) -> int:
    line = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return subprocess.run(line, capture_output=True, check=False).returncode


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
