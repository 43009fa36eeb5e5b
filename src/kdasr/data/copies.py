"""The utterances of a part that is being prepared, and their copies at several speeds: on disk, in order."""

# Shapes: N utterances, M copies.

import json
import random
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.external_sort import ExternalSort
from kdasr.common.files import atomic_path, write_json
from kdasr.data.blocks import BlockReader, BlockWriter, find_blocks
from kdasr.data.cut_index import parsed

LINES, BLOCKS = "utterances.jsonl.gz", "utterances-blocks.npy"
ORDER = "order.npy"
"""The line of each utterance, (N,)."""
COPIES = "copies.npy"
"""The order of all copies, (M,)."""
COUNT = "utterances.json"
"""Written last: the number of utterances."""


@dataclass(frozen=True)
class Copies:
    """Copies of utterances, each known by its number from 0 on. Reads those that are asked for.

    Several speeds come in a fixed shuffled order, so that a sampler which buffers part of a large set still
    mixes speakers.
    """

    folder: Path
    """Filled by `write_copies`."""
    num_utterances: int
    speeds: tuple[float, ...]

    def __getstate__(self) -> dict[str, Any]:
        return {
            "folder": self.folder, "num_utterances": self.num_utterances, "speeds": self.speeds,
        }  # fmt: skip

    def __len__(self) -> int:
        return self.num_utterances * len(self.speeds)

    @cached_property
    def _lines(self) -> BlockReader:
        return BlockReader(self.folder / LINES, self.folder / BLOCKS)

    @cached_property
    def _order(self) -> NDArray[np.int32]:
        return np.load(self.folder / ORDER, mmap_mode="r", allow_pickle=False)

    @cached_property
    def _copies(self) -> NDArray[np.int32] | None:
        path = self.folder / COPIES
        return np.load(path, mmap_mode="r", allow_pickle=False) if len(self.speeds) > 1 else None

    def read(self, some: range) -> list[MonoCut]:
        """Some copies; `cut.custom["speed"]` says at which speed. No two share anything."""
        return [self.copy(number) for number in some]

    def copy(self, number: int) -> MonoCut:
        """One copy."""
        if self._copies is not None:
            number = int(self._copies[number])
        utterance, speed = divmod(number, len(self.speeds))
        return copy_at(self._utterance(utterance), self.speeds[speed])

    def utterances(self) -> Iterator[MonoCut]:
        """Each utterance as it is, in order."""
        return map(self._utterance, range(self.num_utterances))

    def _utterance(self, number: int) -> MonoCut:
        return parsed(self._lines.line(int(self._order[number])), self._lines.path)


def copy_at(cut: MonoCut, speed: float) -> MonoCut:
    """An utterance at some speed, which `cut.custom["speed"]` says."""
    copy = cut if speed == 1.0 else cut.perturb_speed(speed)
    return copy.with_custom("speed", float(speed))


def write_copies(folder: Path, lines: Iterable[bytes], num_speeds: int, *, by_id: bool) -> int:
    """Write the utterances of a part, and in which order they and their copies come.

    Args:
        folder: gets the files that `Copies` reads.
        lines: a cut each, with a line feed.
        num_speeds: copies of each utterance.
        by_id: sort them by id.

    Returns:
        The number of utterances.
    """
    sorting, count = ExternalSort(), 0
    with (folder / LINES).open("wb") as file:
        writer = BlockWriter(file, level=1)
        for count, line in enumerate(lines, start=1):
            writer.add(line)
            if by_id:
                sorting.add(parsed_id(line), count - 1)
        writer.close()
    rows = (int(row) for _, row in sorting) if by_id else range(count)
    save_array(folder / ORDER, np.fromiter(rows, np.int32))
    if num_speeds > 1:
        copies = array("i", range(count * num_speeds))
        random.Random(len(copies)).shuffle(copies)
        save_array(folder / COPIES, np.frombuffer(copies, np.int32))
    blocks = find_blocks(folder / LINES)
    assert blocks is not None
    save_array(folder / BLOCKS, blocks)
    write_json(folder / COUNT, count)
    return count


def parsed_id(line: bytes) -> bytes:
    """The id in a line, which `json.dumps` wrote, for sorting."""
    return str(json.loads(line)["id"]).encode("utf-8", "surrogatepass")


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write a file that `np.load` reads; a file of that name is replaced at once.

    Raises:
        OSError: the disk is full.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, values, allow_pickle=False)
