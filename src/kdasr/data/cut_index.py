"""The index of a part's cuts: columns and the places of the lines, in files that are mapped into memory.

It lies beside the manifest (`<data>/index/<part>/`) and is written once. So training starts without reading
the manifest, and workers read the lines that they need and no others. See `kdasr.data.index_folder`.
"""

# Shapes: N cuts, K blocks.

import hashlib
import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from lhotse.cut import MonoCut
from lhotse.serialization import deserialize_item
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.files import atomic_path, sha256, write_json
from kdasr.common.logging import get_logger
from kdasr.common.name_digests import name_digest
from kdasr.data.blocks import BlockReader
from kdasr.data.cut_table import Columns, ColumnWriter
from kdasr.data.fingerprint import content_print
from kdasr.data.folder import cuts_path, in_folder
from kdasr.data.same_data import cut_line
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import count_pieces

log = get_logger(__name__)

ValueT = TypeVar("ValueT", bound=np.generic)

VERSION = 1
META, BLOCKS, COPY = "index.json", "blocks.npy", "cuts.jsonl.gz"
NAMES = "names.npy"
"""`name_digest` of each cut; where an earlier version made the index, it is added when it is needed."""
_LONG = 100_000
"""From so many cuts on, the log says what takes a while."""


class IndexWriter:
    """Writes the index of cuts that come one after another."""

    def __init__(self, folder: Path) -> None:
        """`folder` is there."""
        self._folder = folder
        self._columns = ColumnWriter()
        self._names = array("q")
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._names)

    def add(self, cut: MonoCut) -> None:
        """Add a cut."""
        self._columns.add(cut)
        self._add_name(cut.id, cut_line(cut))

    def add_values(self, name: str, line: str, values: tuple[int, int, float, int]) -> None:
        """Add a cut by its values (see `ColumnWriter.add_values`) and by `line`, which `cut_line` makes."""
        self._columns.add_values(*values)
        self._add_name(name, line)

    def _add_name(self, name: str, line: str) -> None:
        self._names.append(name_digest(name))
        self._digest.update(line.encode())

    def repeated(self) -> set[int]:
        """The `name_digest` of ids that are there more than once."""
        names_N = np.sort(np.array(self._names, np.int64))
        return set(names_N[1:][names_N[1:] == names_N[:-1]].tolist())

    def close(self, manifest: Path, blocks: NDArray[np.int64], *, is_copy: bool) -> dict[str, Any]:
        """Write the files, and return what they say of the manifest.

        Args:
            manifest: of the part.
            blocks: what `find_blocks` says of it, or of the copy of it in the folder.
            is_copy: whether there is one.
        """
        columns = self._columns.columns()
        for name, values in columns._asdict().items():
            np.save(self._folder / f"{name}.npy", values, allow_pickle=False)
        np.save(self._folder / BLOCKS, blocks, allow_pickle=False)
        np.save(self._folder / NAMES, np.array(self._names, np.int64), allow_pickle=False)
        meta = {
            "version": VERSION,
            "cuts": len(self),
            "content": content_print(manifest),
            "sha256": sha256(manifest),
            "described": self._digest.hexdigest(),
            "is_copy": is_copy,
        }
        write_json(self._folder / META, meta)
        return meta


@dataclass
class PartIndex:
    """The index of one part."""

    data_dir: Path
    part: str
    folder: Path
    meta: dict[str, Any]
    """What `IndexWriter.close` returned."""

    def __len__(self) -> int:
        return int(self.meta["cuts"])

    @cached_property
    def columns(self) -> Columns:
        """The columns, mapped into memory."""
        paths = (self.folder / f"{name}.npy" for name in Columns._fields)
        return Columns(*(np.load(path, mmap_mode="r", allow_pickle=False) for path in paths))

    @property
    def reader(self) -> "PartReader":
        """What reads its cuts."""
        path = self.folder / COPY if self.meta["is_copy"] else cuts_path(self.data_dir, self.part)
        return PartReader(BlockReader(path, self.folder / BLOCKS), self.data_dir)

    def texts(self) -> Iterator[str]:
        """The transcript of each cut, in order; empty where there is none."""
        return map(_text_in, self.reader.blocks.lines())

    def names(self) -> NDArray[np.int64]:
        """`name_digest` of each cut (N,), mapped into memory."""
        texts = (str(json.loads(line)["id"]) for line in self.reader.blocks.lines())
        return self._kept(self.folder / NAMES, np.int64, map(name_digest, texts))

    def pieces_path(self, tokenizer: Tokenizer) -> Path:
        """Where the counts of these pieces are kept."""
        return self.folder / f"pieces-{tokenizer.fingerprint[:16]}.npy"

    def pieces(self, tokenizer: Tokenizer) -> NDArray[np.uint16]:
        """`count_pieces` of each transcript (N,): counted once for these pieces, and kept."""
        path = self.pieces_path(tokenizer)
        if len(self) >= _LONG and not path.is_file():
            log.info("%s: the pieces of %d transcripts are counted, once", self.part, len(self))
        counts_N = self._kept(path, np.uint16, (count_pieces(text, tokenizer) for text in self.texts()))
        with suppress(OSError):
            for other in self.folder.glob("pieces-*.npy"):
                if other != path:
                    other.unlink()
        return counts_N

    def _kept(self, path: Path, kind: type[ValueT], values: Iterable[int]) -> NDArray[ValueT]:
        """A value of each cut (N,), from a file; made of `values` if it is not there."""
        with suppress(OSError, ValueError):
            known_N = np.load(path, mmap_mode="r", allow_pickle=False)
            if known_N.shape == (len(self),) and known_N.dtype == kind:
                return known_N
        values_N = np.fromiter(values, kind, len(self))
        # Where nothing can be written, they are made each time.
        with suppress(OSError), atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, values_N, allow_pickle=False)
        return values_N


@dataclass(frozen=True)
class PartReader:
    """Reads the cuts of a part, with paths that hold from the current directory."""

    blocks: BlockReader
    data_dir: Path

    def read(self, rows: Sequence[int]) -> list[MonoCut]:
        """See `CutReader`."""
        return [in_folder(parsed(self.blocks.line(row), self.blocks.path), self.data_dir) for row in rows]


@dataclass(frozen=True)
class PartsReader:
    """Reads the cuts of several parts, one after another."""

    readers: list[PartReader]
    begins: list[int]
    """The row at which each part begins."""

    def read(self, rows: Sequence[int]) -> list[MonoCut]:
        """See `CutReader`."""
        cuts = []
        for row in rows:
            part = bisect_right(self.begins, row) - 1
            cuts += self.readers[part].read([row - self.begins[part]])
        return cuts


class FolderTable:
    """A `CutTable` of some parts of a data folder."""

    def __init__(self, parts: Sequence[PartIndex]) -> None:
        self._parts = list(parts)
        self.lengths = [len(part) for part in self._parts]
        begins = list(accumulate(self.lengths, initial=0))[:-1]
        self.reader = PartsReader([part.reader for part in self._parts], begins)
        columns = [part.columns for part in self._parts]
        # Those of a single part stay mapped.
        joined = (np.concatenate(values) for values in zip(*columns, strict=True))
        self.columns = columns[0] if len(columns) == 1 else Columns(*joined)

    def __len__(self) -> int:
        return len(self.columns.samples_N)

    def pieces(self, tokenizer: Tokenizer) -> NDArray[np.uint16]:
        """See `CutTable`."""
        counts = [part.pieces(tokenizer) for part in self._parts]
        return counts[0] if len(counts) == 1 else np.concatenate(counts)

    def names(self) -> NDArray[np.int64]:
        """`name_digest` of each cut, (N,)."""
        names = [part.names() for part in self._parts]
        return names[0] if len(names) == 1 else np.concatenate(names)

    def described(self) -> list[str]:
        """A digest of what the cuts of each part are: see `kdasr.data.same_data`."""
        return [str(part.meta["described"]) for part in self._parts]


def parsed(line: bytes, path: Path) -> MonoCut:
    """The utterance of a line.

    Raises:
        UserError: there is none; names the file.
    """
    try:
        cut = deserialize_item(json.loads(line))
    except Exception as error:  # JSON and Lhotse each have their own
        raise UserError(f"{path}: damaged ({first_line(error)}): remove it and run `kdasr prepare`") from None
    if not isinstance(cut, MonoCut):
        raise UserError(
            f"{path}: holds a {type(cut).__name__}, not utterances: remove it and run `kdasr prepare`"
        )
    return cut


def _text_in(line: bytes) -> str:
    """The transcript in a line, without the rest of its cut."""
    spoken = json.loads(line).get("supervisions")
    return (spoken[0].get("text") or "") if spoken else ""
