"""Training cuts as columns of a few bytes each, from which epochs are planned; cuts are read when needed.

`MemoryTable` has cuts that are in memory, `kdasr.data.cut_index` those of a data folder.
"""

# Shapes: N cuts.

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from lhotse import CutSet
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import count_pieces, cut_text, samples_of
from kdasr.data.word_times import aligned_words

log = get_logger(__name__)

STORED, WORDS = 1, 2
"""Bits of `Columns.flags_N`: a cut has stored features; it has word times."""
NOBODY = 0
"""The speaker of a cut that does not say."""


class Columns(NamedTuple):
    """What is known of each cut, 15 bytes together."""

    samples_N: NDArray[np.int32]
    """Length at 16 kHz."""
    speakers_N: NDArray[np.int64]
    """A number for each name, the same everywhere."""
    speeds_N: NDArray[np.uint16]
    """Speed factor, in thousandths."""
    flags_N: NDArray[np.uint8]


class CutReader(Protocol):
    """Reads cuts, in whichever process it has been sent to."""

    def read(self, rows: Sequence[int]) -> list[MonoCut]:
        """The cuts of some rows of a table.

        Raises:
            UserError: they cannot be read.
        """
        ...


class CutTable(Protocol):
    """Cuts in a fixed order."""

    @property
    def columns(self) -> Columns:
        """What is known of them."""
        ...

    @property
    def reader(self) -> CutReader:
        """What reads them."""
        ...

    def pieces(self, tokenizer: Tokenizer) -> NDArray[np.uint16]:
        """`count_pieces` of each transcript, (N,)."""
        ...


@dataclass(frozen=True)
class MemoryReader:
    """Cuts that are in memory."""

    cuts: list[MonoCut]

    def read(self, rows: Sequence[int]) -> list[MonoCut]:
        """See `CutReader`."""
        return [self.cuts[row] for row in rows]


class MemoryTable:
    """A `CutTable` of cuts that are in memory."""

    def __init__(self, cuts: CutSet) -> None:
        self.reader = MemoryReader(list(cuts))
        rows = ColumnWriter()
        for cut in self.reader.cuts:
            rows.add(cut)
        self.columns = rows.columns()

    def pieces(self, tokenizer: Tokenizer) -> NDArray[np.uint16]:
        """See `CutTable`."""
        counts = [count_pieces(cut_text(cut), tokenizer) for cut in self.reader.cuts]
        return np.array(counts, np.uint16)


class ColumnWriter:
    """Collects the columns of cuts that come one after another."""

    def __init__(self) -> None:
        self._samples, self._speakers = array("i"), array("q")
        self._speeds, self._flags = array("H"), array("B")

    def add(self, cut: MonoCut) -> None:
        """Add a cut."""
        name = cut.supervisions[0].speaker if cut.supervisions else None
        flags = STORED * cut.has_features | WORDS * bool(aligned_words(cut))
        self.add_values(samples_of(cut), speaker_number(name), speed_of(cut), flags)

    def add_values(self, samples: int, speaker: int, speed: float, flags: int) -> None:
        """Add a cut by its values."""
        self._samples.append(samples)
        self._speakers.append(speaker)
        self._speeds.append(round(1000 * speed))
        self._flags.append(flags)

    def columns(self) -> Columns:
        """All that were added."""
        columns = (self._samples, self._speakers, self._speeds, self._flags)
        types = (np.int32, np.int64, np.uint16, np.uint8)
        arrays = (np.frombuffer(column, kind) for column, kind in zip(columns, types, strict=True))
        return Columns(*(np.array(values) for values in arrays))


def speaker_number(name: str | None) -> int:
    """A number for a speaker's name: 63 bits of a digest."""
    if not name:
        return NOBODY
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) >> 1


def speed_of(cut: MonoCut) -> float:
    """The speed factor that `kdasr prepare` noted on the cut; 1 for one that does not say."""
    return float((cut.custom or {}).get("speed", 1.0))


def wanted_speeds(found: Iterable[float], speeds: list[float]) -> set[float]:
    """Those of the speeds that are there which are asked for.

    Raises:
        UserError: none of them.
    """
    there, wanted = set(found), {float(speed) for speed in speeds}
    if not there & wanted:
        raise UserError(f"data.speed_perturbation: {sorted(wanted)}: the prepared cuts have {sorted(there)}")
    if wanted - there:
        log.info(
            "no copies at speed %s: prepare them with `kdasr prepare --speed`",
            ", ".join(f"{speed:g}" for speed in sorted(wanted - there)),
        )
    return there & wanted
