"""Whether the files that were checked before labeling are as they were, without opening any of them."""

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from kdasr.common.files import atomic_path

_VERSION = 1
"""Raised when the check finds other faults than before, so that everything is checked again."""
_AT_ONCE = 4096
_BEGUN = ".begun"


class InputStamps:
    """Size and time of change (ns) of each file, as they were before it was checked, in a file of its own.

    A file of the same size and time counts as unchanged. Its time is that of the last check.
    """

    def __init__(self, path: Path, places: Sequence[Path]) -> None:
        """
        Args:
            path: of the stamps.
            places: what is labeled, as the command has it.
        """
        self._path = path
        self._places = [str(place.absolute()) for place in places]

    def are_since(self, time_ns: int) -> bool:
        """Whether a check of the same places has ended after a time, see `time_there`."""
        try:
            with gzip.open(self._path, "rt", encoding="ascii") as file:
                return self._num_named(file) is not None and self._path.stat().st_mtime_ns > time_ns
        except (OSError, EOFError, ValueError, zlib.error):
            return False

    def hold(self, named: Sequence[Path], jobs: int) -> bool:
        """Whether the places have the files `named`, no more and no less, and these and all that they name
        are as they were; looks at `jobs` files at a time."""
        try:
            with (
                gzip.open(self._path, "rt", encoding="ascii") as file,
                ThreadPoolExecutor(jobs) as pool,
            ):
                if self._num_named(file) != len(named):
                    return False
                before = [json.loads(line)[0] for line in islice(file, len(named))]
                if before != [str(path.absolute()) for path in named]:
                    return False
                file.seek(0)
                next(file)
                while lines := list(islice(file, _AT_ONCE)):
                    if not all(pool.map(_are_unchanged, [lines[start::jobs] for start in range(jobs)])):
                        return False
        except (OSError, EOFError, ValueError, LookupError, zlib.error):
            return False
        os.utime(self._path)
        return True

    @contextmanager
    def taken(self, named: Sequence[Path]) -> Iterator[Callable[[Path], None]]:
        """Within the block everything is checked. Yields what is to be told of each further file before it
        is looked at. There are new stamps when the block has ended well.

        Raises:
            OSError: the disk is full.
        """
        with atomic_path(self._path) as temporary:
            with gzip.open(temporary, "wt", compresslevel=1, encoding="ascii") as file:
                head = {"version": _VERSION, "places": self._places, "named": len(named)}
                file.write(json.dumps(head) + "\n")

                @lru_cache(maxsize=_AT_ONCE)
                def write(path: Path) -> None:
                    file.write(json.dumps(_stamp(str(path.absolute()))) + "\n")

                for path in named:
                    write.__wrapped__(path)
                yield write
            os.utime(temporary)

    def _num_named(self, file: TextIO) -> int | None:
        """How many files the places had; None where these are stamps of others. Reads the first line."""
        head = json.loads(file.readline())
        is_same = head.get("version") == _VERSION and head.get("places") == self._places
        return int(head["named"]) if is_same else None


def time_there(folder: Path) -> int:
    """Now, as the file system of a folder says it, in ns: its clock may be that of another machine."""
    mark = folder / _BEGUN
    mark.touch()
    return mark.stat().st_mtime_ns


def _are_unchanged(lines: Sequence[str]) -> bool:
    return all(_stamp(known[0]) == known for known in map(json.loads, lines))


def _stamp(path: str) -> list[Any]:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return [path, None, None]
    return [path, status.st_size, status.st_mtime_ns]
