"""Recordings that are read as they are heard, so that hours of audio need no more memory than minutes."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kdasr.common.errors import UserError
from kdasr.data.audio_reading import SAMPLE_RATE, AudioError
from kdasr.recognition.audio import AudioFile, Samples

PACKET_SECONDS = 0.1
"""Of the longest packet in which live audio comes."""


class SampleSource(Protocol):
    """The samples of one recording: mono, float32, 16 kHz. An array is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> Samples: ...


def blocks(source: SampleSource, count: int) -> Iterator[Samples]:
    """The samples from first to last, `count` at a time."""
    for start in range(0, len(source), count):
        yield source[start : start + count]


class FileSource:
    """A stretch of a sound file at 16 kHz. The file is open from the first sample read to the last."""

    def __init__(self, path: Path | str, start: int, count: int) -> None:
        """
        Args:
            path: of a file that `AudioFile` reads.
            start: its first sample that counts.
            count: how many do.
        """
        self._path, self._start, self._count = Path(path), start, count
        self._file: AudioFile | None = None
        self._position = 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, span: slice, /) -> Samples:
        """
        Raises:
            UserError: see `AudioFile`; or the file is at another rate.
            AudioError: it has fewer samples.
        """
        start, end, _ = span.indices(self._count)
        if end <= start:
            return np.zeros(0, dtype=np.float32)
        file = self._opened_at(start)
        samples = file.read(end - start)
        if len(samples) < end - start:
            raise AudioError(self._path, f"ends after sample {self._start + start + len(samples)}: cut short")
        self._position = end
        if end == self._count:
            file.close()
            self._file = None
        return samples

    def _opened_at(self, position: int) -> AudioFile:
        if self._file is None:
            self._file, self._position = AudioFile(self._path), -self._start
            if self._file.rate != SAMPLE_RATE:
                raise UserError(f"{self._path}: at {self._file.rate} Hz, expected {SAMPLE_RATE}")
        if self._position != position:
            self._file.seek(self._start + position)
        return self._file


@dataclass(frozen=True)
class Piece:
    """Some samples that are made or read when a stream comes to them."""

    count: int
    open: Callable[[], SampleSource]
    """Called each time that a stream comes to the piece."""


class JoinedSource:
    """Pieces one after another. One of them is open at a time, which suits a reader that goes forward."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = list(pieces)
        self._starts = [0]
        for piece in pieces:
            self._starts.append(self._starts[-1] + piece.count)
        self._open: tuple[int, SampleSource] = (-1, np.zeros(0, dtype=np.float32))

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, span: slice, /) -> Samples:
        start, end, _ = span.indices(len(self))
        found = [np.zeros(0, dtype=np.float32)]
        while start < end:
            place = bisect_right(self._starts, start) - 1
            first = self._starts[place]
            stop = min(end, self._starts[place + 1])
            found.append(self._source(place)[start - first : stop - first])
            start = stop
        return np.concatenate(found)

    def _source(self, place: int) -> SampleSource:
        if self._open[0] != place:
            piece = self._pieces[place]
            source = piece.open()
            if len(source) != piece.count:
                raise ValueError(f"piece {place}: {len(source)} samples, expected {piece.count}")
            self._open = place, source
        return self._open[1]
