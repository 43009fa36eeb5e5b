"""Gzipped manifests of which single lines can be read: a few lines in each block, and where the blocks are.

Such a file is an ordinary `.jsonl.gz` for every other program: a gzip file may have several members. Each
member here holds `LINES` lines, the last one perhaps fewer, and says in an extra field of its header
(RFC 1952, subfield `KD`) how many bytes it has, as BGZF files do. So blocks are found without unpacking.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError

# Shapes: K blocks.

LINES = 16
"""Lines of a block. More pack better, fewer are read faster."""
_HEADER = struct.Struct("<10sH2sHI")
"""Gzip's header with an extra field; its length, the subfield's name and length, the bytes of the member."""
_FIXED = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
_EXTRA = (8, b"KD", 4)


class BlockWriter:
    """Writes lines in blocks; the same lines make the same file."""

    def __init__(self, file: BinaryIO, level: int = 6) -> None:
        """`file` is to be closed by the caller after `close`."""
        self._file, self._level = file, level
        self._lines: list[bytes] = []

    def add(self, line: bytes) -> None:
        """`line` ends with a line feed."""
        self._lines.append(line)
        if len(self._lines) == LINES:
            self._write()

    def close(self) -> None:
        """Write what is left. A file without any line is one empty member."""
        if self._lines or not self._file.tell():
            self._write()

    def _write(self) -> None:
        text = b"".join(self._lines)
        packer = zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)
        body = packer.compress(text) + packer.flush()
        end = struct.pack("<II", zlib.crc32(text), len(text))
        self._file.write(_HEADER.pack(_FIXED, *_EXTRA, _HEADER.size + len(body) + len(end)) + body + end)
        self._lines = []


def write_blocks(file: BinaryIO, lines: Iterable[bytes]) -> None:
    """Write all `lines`."""
    writer = BlockWriter(file)
    for line in lines:
        writer.add(line)
    writer.close()


def find_blocks(path: Path) -> NDArray[np.int64] | None:
    """Where each block begins, and the end of the file (K + 1); None for a file that is not in blocks."""
    size = path.stat().st_size
    found = [0]
    with path.open("rb") as file:
        while found[-1] < size:
            file.seek(found[-1])
            head = file.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            fixed, *extra, length = _HEADER.unpack(head)
            if fixed != _FIXED or tuple(extra) != _EXTRA or length <= _HEADER.size:
                return None
            found.append(found[-1] + length)
    return np.asarray(found, dtype=np.int64) if found[-1] == size else None


class BlockReader:
    """Single lines of a file in blocks. Opens it when the first line is read, in each process by itself."""

    def __init__(self, path: Path, offsets: Path) -> None:
        """`offsets` is a NumPy file with what `find_blocks` returned."""
        self.path, self._offsets = path, offsets

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_offsets": self._offsets}

    @cached_property
    def _blocks(self) -> NDArray[np.int64]:
        return np.load(self._offsets, mmap_mode="r", allow_pickle=False)

    @cached_property
    def _file(self) -> BinaryIO:
        return self.path.open("rb")

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    def line(self, number: int) -> bytes:
        """A line by its number, from 0; without its end.

        Raises:
            UserError: the file is gone, or not what it was.
        """
        return self._block(number // LINES)[number % LINES]

    def lines(self) -> Iterator[bytes]:
        """All lines in their order; raises as `line`."""
        for block in range(len(self._blocks) - 1):
            yield from self._block(block)

    def _block(self, number: int) -> list[bytes]:
        start, end = int(self._blocks[number]), int(self._blocks[number + 1])
        try:
            # Several processes may share the open file, and so its position: `pread` does without one.
            packed = os.pread(self._file.fileno(), end - start, start)
            return zlib.decompress(packed, 16 + zlib.MAX_WBITS).split(b"\n")[:-1]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        except zlib.error as error:
            raise UserError(f"{self.path}: damaged ({error}): run `kdasr prepare` again") from None
