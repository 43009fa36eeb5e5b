"""A share of the training utterances: the same ones in every run, and all speeds of an utterance or none."""

import hashlib

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.logging import get_logger
from kdasr.data.cut_table import CutTable
from kdasr.data.features import utterance_of

# Shapes: U rows of a table.

log = get_logger(__name__)

AT_ONCE = 4096
"""Cuts that are read together."""


def in_share(cut: MonoCut, share: float) -> bool:
    """Whether a cut is among this share of all, by the name of its utterance; a larger share has all that a
    smaller has."""
    digest = hashlib.blake2b(utterance_of(cut).encode(), digest_size=8).digest()
    return int.from_bytes(digest) < share * 2**64


def rows_in_share(table: CutTable, rows_U: NDArray[np.int32], share: float) -> NDArray[np.int32]:
    """Those of some rows of a table whose cuts are `in_share`; for a share below 1 all of them are read."""
    if share >= 1.0:
        return rows_U
    kept: list[int] = []
    for start in range(0, len(rows_U), AT_ONCE):
        some = rows_U[start : start + AT_ONCE].tolist()
        cuts = table.reader.read(some)
        kept += [row for row, cut in zip(some, cuts, strict=True) if in_share(cut, share)]
    log.info("data.train_share %g: %d of %d utterances, each speed counted", share, len(kept), len(rows_U))
    return np.array(kept, np.int32)
