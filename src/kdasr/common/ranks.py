"""Which of several processes this one is, as torchrun says it, and records that they keep side by side.

Processes that share out a list of work write into files of their own and read each other's. None waits for
another one in a collective, so it does not matter how long one of them works.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdasr.common.errors import UserError

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Ranks:
    """One of several processes that do the same work."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among those of this machine."""

    @classmethod
    def of_environment(cls) -> "Ranks":
        """As torchrun has set it; a process that was started alone is the only one.

        Raises:
            UserError: variables that do not fit together.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = {name: os.environ[name] for name in names if name in os.environ}
        if "RANK" not in given and given.get("WORLD_SIZE", "1") == "1":
            return cls()
        try:
            rank, world_size = int(given["RANK"]), int(given["WORLD_SIZE"])
            local = int(given.get("LOCAL_RANK", rank))
        except (KeyError, ValueError):
            rank = world_size = local = -1
        if not 0 <= rank < world_size or local < 0:
            raise UserError(f"the environment has {given}: expected RANK, WORLD_SIZE, LOCAL_RANK of torchrun")
        return cls(rank, world_size, local)

    @property
    def is_first(self) -> bool:
        """Whether it is the one that speaks for all."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other one."""
        return self.world_size == 1

    def has(self, number: int) -> bool:
        """Whether the piece of work with this number is this process's."""
        return number % self.world_size == self.rank

    def share(self, items: Sequence[ItemT]) -> list[ItemT]:
        """Its part of some work, whatever of it is done already: every `world_size`-th item."""
        return list(items[self.rank :: self.world_size])


class ShardedJournal:
    """What has been done of numbered units of work: a file per process, a line per unit.

    Behind a line with the settings. A unit is there as a whole or not at all; files of other settings count
    as absent.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], ranks: Ranks | None = None) -> None:
        """Go on with this process's file if its settings are these, else begin it anew.

        Args:
            path: of the files, each of which has the number of a process behind this name.
            settings: plain values that decide the results.
            ranks: None: there is one process.

        Raises:
            OSError: it cannot be written.
        """
        self.path = path
        self._own = _of_rank(path, (ranks or Ranks()).rank)
        self._settings = json.loads(json.dumps(settings))
        _, kept = self._read(self._own)
        with self._own.open("rb+" if kept else "wb") as file:
            if kept:
                file.truncate(kept)
            else:
                file.write(_line(self._settings))

    def append(self, unit: int, value: Any) -> None:
        """Keep what became of a unit: a plain value. A later one of the same unit takes its place.

        Raises:
            OSError: the disk is full.
        """
        with self._own.open("ab") as file:
            file.write(_line([unit, value]))

    def read(self, is_whole: Callable[[Any], bool] = lambda _: True) -> dict[int, Any]:
        """What all processes have done so far, by unit; of two values of one, that which `is_whole`."""
        found: dict[int, Any] = {}
        others = [path for path in _files(self.path) if path != self._own]
        for path in (*others, self._own):
            for unit, value in self._read(path)[0].items():
                if unit not in found or is_whole(value) or not is_whole(found[unit]):
                    found[unit] = value
        return found

    def _read(self, path: Path) -> tuple[dict[int, Any], int]:
        """The units of a file, and the bytes up to the end of the last one."""
        units: dict[int, Any] = {}
        kept = 0
        try:
            with path.open("rb") as file:
                for line in file:
                    value = json.loads(line) if line.endswith(b"\n") else None
                    if value is None or (kept == 0 and value != self._settings):
                        break
                    if kept:
                        units[int(value[0])] = value[1]
                    kept += len(line)
        except FileNotFoundError:
            return {}, 0
        except (ValueError, TypeError, LookupError):  # the rest of the file is not ours
            pass
        return units, kept


def forget_journal(path: Path) -> None:
    """Remove the files of all processes."""
    for file in _files(path):
        file.unlink(missing_ok=True)


def _files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def _of_rank(path: Path, rank: int) -> Path:
    return path.with_name(f"{path.name}-{rank}")


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
