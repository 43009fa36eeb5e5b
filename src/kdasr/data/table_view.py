"""Some rows of a table of cuts, with something of the cuts changed as they are read."""

# Shapes: N cuts of a table, V of a view.

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.data.cut_table import Columns, CutReader, CutTable
from kdasr.data.tokenizer import Tokenizer

Change = Callable[[MonoCut], MonoCut]
"""Gives another cut; runs in the processes that read. It can be sent there."""


@dataclass(frozen=True)
class ViewReader:
    """Reads the cuts of a view."""

    reader: CutReader
    rows_V: NDArray[np.int32]
    change: Change

    def read(self, rows: Sequence[int]) -> list[MonoCut]:
        """See `CutReader`."""
        return list(map(self.change, self.reader.read(self.rows_V[list(rows)].tolist())))


@dataclass
class TableView:
    """A `CutTable` of some rows of another one: 19 bytes of each are in memory."""

    table: CutTable
    rows_V: NDArray[np.int32]
    change: Change
    pieces_of: Callable[[Tokenizer], NDArray[np.uint16]]
    """`CutTable.pieces` of the changed cuts, (V,)."""
    lost_flags: int = 0
    """Bits of `Columns.flags_N` that the changed cuts do not have."""
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        samples_N, speakers_N, speeds_N, flags_N = self.table.columns
        rows_V, kept = self.rows_V, np.uint8(~self.lost_flags & 0xFF)
        self.columns = Columns(
            samples_N[rows_V], speakers_N[rows_V], speeds_N[rows_V], flags_N[rows_V] & kept
        )

    def __len__(self) -> int:
        return len(self.rows_V)

    @property
    def reader(self) -> ViewReader:
        """What reads them."""
        return ViewReader(self.table.reader, self.rows_V, self.change)

    def pieces(self, tokenizer: Tokenizer) -> NDArray[np.uint16]:
        """See `CutTable`."""
        return self.pieces_of(tokenizer)

    def take(self, places: NDArray[np.int32]) -> "TableView":
        """A view of some of its rows."""
        rows_V, pieces_of = self.rows_V[places], self.pieces_of
        return TableView(
            self.table,
            rows_V,
            self.change,
            lambda tokenizer: pieces_of(tokenizer)[places],
            self.lost_flags,
        )

    def described(self) -> list[str]:
        """See `kdasr.data.same_data.Indexed`: what the parts are, and which cuts of them."""
        described: list[str] = getattr(self.table, "described", list)()
        return [*described, hashlib.sha256(self.rows_V.tobytes()).hexdigest()]

    def digest(self) -> str:
        """Tells these cuts from others."""
        return hashlib.sha256("\n".join(self.described()).encode()).hexdigest()


def as_it_is(cut: MonoCut) -> MonoCut:
    """A `Change` that is none."""
    return cut
