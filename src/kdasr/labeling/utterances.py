"""The utterances to label: in a manifest on disk, in the order of their ids, and read shard by shard."""

# Shapes: N utterances, K blocks.

import json
from array import array
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.external_sort import ExternalSort
from kdasr.data.blocks import BlockReader, find_blocks
from kdasr.data.copies import parsed_id, save_array
from kdasr.data.cut_index import parsed

BLOCKS, ORDER, SECONDS = "input-blocks.npy", "input-order.npy", "input-seconds.npy"
"""Beside the manifest: where its blocks begin (K + 1,); and in the order of the ids the line of each
utterance and its seconds, (N,) each."""


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
    def _order(self) -> NDArray[np.int32]:
        return np.asarray(np.load(self._manifest.with_name(ORDER), mmap_mode="r", allow_pickle=False))

    def _cut(self, number: int) -> MonoCut:
        try:
            return parsed(self._lines.line(int(self._order[number])), self._manifest)
        except UserError:
            raise UserError(f"{self._manifest}: gone or damaged: remove it, and label again") from None


def has_order(manifest: Path) -> bool:
    """Whether `write_order` was called for a manifest since `forget_order`."""
    return all(manifest.with_name(name).is_file() for name in (BLOCKS, ORDER, SECONDS))


def forget_order(manifest: Path) -> None:
    """To be called before a manifest is written."""
    for name in (BLOCKS, ORDER, SECONDS):
        manifest.with_name(name).unlink(missing_ok=True)


def write_order(manifest: Path) -> None:
    """Write the files that `Utterances` needs of a manifest, which `write_manifest` wrote.

    Raises:
        UserError: it is damaged.
        OSError: the disk is full.
    """
    blocks_K = find_blocks(manifest)
    if blocks_K is None:
        raise UserError(f"{manifest}: damaged: remove it, and label again")
    save_array(manifest.with_name(BLOCKS), blocks_K)
    sorting, seconds = ExternalSort(), array("d")
    for number, line in enumerate(BlockReader(manifest, manifest.with_name(BLOCKS)).lines()):
        sorting.add(parsed_id(line), number)
        seconds.append(float(json.loads(line)["duration"]))
    order_N = np.fromiter((int(row) for _, row in sorting), np.int32, len(seconds))
    save_array(manifest.with_name(SECONDS), np.array(seconds, np.float64)[order_N])
    save_array(manifest.with_name(ORDER), order_N)
