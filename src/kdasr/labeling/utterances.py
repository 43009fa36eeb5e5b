"""The utterances to label: in a manifest on disk, in the order of their ids, and read shard by shard."""

# Shapes: N utterances, K blocks.

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.external_sort import ExternalSort
from kdasr.data.blocks import BlockReader, find_blocks
from kdasr.data.copies import parsed_id, save_array
from kdasr.data.cut_index import parsed
from kdasr.data.fingerprint import fingerprints

_FILES = BLOCKS, ORDER, SECONDS, PRINTS = (
    "input-blocks.npy",
    "input-order.npy",
    "input-seconds.npy",
    "input-audio.npy",
)
"""Beside the manifest: where its blocks begin (K + 1,); and in the order of the ids the line of each
utterance, its seconds, and what tells its audio file from another one, (N,) each."""
_AT_ONCE = 4096


class Utterances:
    """The cuts of a manifest in blocks, sorted by id. None of them stays in memory: a few bytes of each are
    mapped into it."""

    def __init__(self, manifest: Path) -> None:
        """`write_order` was called for the manifest."""
        self._manifest = manifest
        self._lines = BlockReader(manifest, manifest.with_name(BLOCKS))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[MonoCut]:
        return map(self._cut, range(len(self)))

    def read(self, some: range) -> list[MonoCut]:
        """Those with some numbers.

        Raises:
            UserError: the manifest is gone or damaged.
        """
        return list(map(self._cut, some))

    @cached_property
    def seconds(self) -> NDArray[np.float64]:
        """How long each is, (N,)."""
        return np.asarray(np.load(self._manifest.with_name(SECONDS), mmap_mode="r", allow_pickle=False))

    @cached_property
    def prints(self) -> NDArray[np.int64]:
        """Of the audio file of each, (N,): another number where the file was replaced by another one, also
        of the same length, and the same for a copy of it. See `fingerprint`."""
        return np.asarray(np.load(self._manifest.with_name(PRINTS), mmap_mode="r", allow_pickle=False))

    @cached_property
    def _order(self) -> NDArray[np.int32]:
        return np.asarray(np.load(self._manifest.with_name(ORDER), mmap_mode="r", allow_pickle=False))

    def _cut(self, number: int) -> MonoCut:
        try:
            return parsed(self._lines.line(int(self._order[number])), self._manifest)
        except UserError:
            raise UserError(f"{self._manifest}: gone or damaged: remove it, and label again") from None


def has_order(manifest: Path) -> bool:
    """Whether `write_order` was called for a manifest since `forget_order`."""
    return all(manifest.with_name(name).is_file() for name in _FILES)


def forget_order(manifest: Path) -> None:
    """To be called before a manifest is written."""
    for name in _FILES:
        manifest.with_name(name).unlink(missing_ok=True)


def write_order(manifest: Path, jobs: int = 1) -> None:
    """Write the files that `Utterances` needs of a manifest, which `write_manifest` wrote.

    Looks at `jobs` audio files at a time.

    Raises:
        UserError: it is damaged.
        OSError: the disk is full.
    """
    blocks_K = find_blocks(manifest)
    if blocks_K is None:
        raise UserError(f"{manifest}: damaged: remove it, and label again")
    save_array(manifest.with_name(BLOCKS), blocks_K)
    sorting, seconds, prints = ExternalSort(), array("d"), array("q")
    lines = BlockReader(manifest, manifest.with_name(BLOCKS)).lines()
    while some := list(islice(lines, _AT_ONCE)):
        for number, line in enumerate(some, start=len(seconds)):
            sorting.add(parsed_id(line), number)
        found = list(map(json.loads, some))
        seconds.extend(float(cut["duration"]) for cut in found)
        prints.extend(_prints([cut["recording"]["sources"][0]["source"] for cut in found], jobs))
    order_N = np.fromiter((int(row) for _, row in sorting), np.int32, len(seconds))
    save_array(manifest.with_name(SECONDS), np.array(seconds, np.float64)[order_N])
    save_array(manifest.with_name(PRINTS), np.array(prints, np.int64)[order_N])
    save_array(manifest.with_name(ORDER), order_N)


def _prints(files: Sequence[str], jobs: int) -> Iterator[int]:
    """Of each file; each is looked at once."""
    each = list(dict.fromkeys(files))
    prints = dict(zip(each, fingerprints(list(map(Path, each)), jobs, timed=False), strict=True))
    return (int.from_bytes(prints[file][:8], "little", signed=True) for file in files)
