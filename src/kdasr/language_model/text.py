"""Text for language models: files with a sentence per line, as pieces."""

import gzip
import hashlib
import zlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.ranges import MAY_MOVE, Items, at_least
from kdasr.data.audio_files import SHOWN
from kdasr.data.cut_index import PartIndex
from kdasr.data.index_folder import open_part
from kdasr.data.same_data import Description
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import Tokenizer

# Shapes: N sentences, P pieces of all of them.

log = get_logger(__name__)

AT_ONCE = 1 << 22
"""Pieces, or sentences, that are in memory at a time, where the text is in files."""
SAY_LINES = 5_000_000


@dataclass
class TextConfig:
    """Text to train a language model on, and text to measure it on."""

    dir: Annotated[str, MAY_MOVE] = "data"
    """The prepared folder: its tokenizer, and the transcripts of `dev_parts`."""
    train_text: Annotated[list[str], Items(), MAY_MOVE] = field(default_factory=list)
    """Files with one sentence per line, spelled as transcripts are; gzipped if they end in .gz. They are
    encoded once, into `text/` of the prepared folder, and never in memory as a whole."""
    dev_text: Annotated[list[str], Items(), MAY_MOVE] = field(default_factory=list)
    """Files like these. Empty: the transcripts of `dev_parts`."""
    dev_parts: Annotated[list[str], Items()] = field(default_factory=lambda: ["dev-clean"])
    batch_pieces: Annotated[int, at_least(1)] = 4000
    """Pieces per batch, ends and padding included."""
    max_pieces: Annotated[int, at_least(1)] = 200
    """Longer sentences are left out."""


class TextSource(NamedTuple):
    """Where some sentences come from."""

    name: str
    lines: Iterable[str]


class Columns(NamedTuple):
    """Encoded sentences: in memory, or mapped from files."""

    pieces_P: NDArray[Any]
    """Those of all sentences, one after another."""
    starts_N: NDArray[np.int64]
    """Where each sentence begins in them; and, last, where they end."""
    lens_N: NDArray[np.uint32]
    words_N: NDArray[np.uint32]
    places_N: NDArray[np.int64]
    """Its line, counted over all sources."""


class EncodedText:
    """Sentences as pieces: two bytes per piece. `kdasr.language_model.text_store` keeps them in files.

    Empty lines, sentences that are too long, and those with characters that the tokenizer does not know are
    counted, reported and left out.
    """

    def __init__(self, sources: Sequence[TextSource], tokenizer: Tokenizer, max_pieces: int) -> None:
        """
        Raises:
            UserError: nothing is left.
        """
        writer = ColumnWriter(tokenizer.vocab_size)
        begins = encode_sources(sources, tokenizer, max_pieces, writer)
        self._take(writer.columns(), begins)

    @classmethod
    def of(cls, columns: Columns, begins: Sequence[tuple[str, int]], digest: str) -> "EncodedText":
        """Sentences that have been encoded already.

        Args:
            columns: of `encode_sources`.
            begins: the name of each source, and how many lines are before it.
            digest: what `digest` said.
        """
        text = cls.__new__(cls)
        text._take(columns, begins)
        text._digest = digest
        return text

    def _take(self, columns: Columns, begins: Sequence[tuple[str, int]]) -> None:
        self._columns = columns
        self.num_words_N = columns.words_N
        self.lens_N = columns.lens_N
        """Pieces of each sentence, the end not counted."""
        self._sources = list(begins)
        self._digest = ""

    def __len__(self) -> int:
        return len(self.num_words_N)

    @property
    def num_pieces(self) -> int:
        """Of all sentences together, ends not counted."""
        return int(self._columns.starts_N[-1])

    def digest(self) -> str:
        """SHA-256 of the sentences in their order."""
        if not self._digest:
            digest = hashlib.sha256()
            for column, kind in ((self._columns.pieces_P, "<u4"), (self.lens_N, "<i8")):
                for start in range(0, len(column), AT_ONCE):
                    digest.update(column[start : start + AT_ONCE].astype(kind).tobytes())
            self._digest = digest.hexdigest()
        return self._digest

    def description(self) -> Description:
        """What a training on these sentences remembers of them (see `kdasr.data.same_data`)."""
        return {"sentences": len(self), "digest": self.digest()}

    def pieces(self, index: int) -> NDArray[np.int64]:
        """The pieces of one sentence."""
        start, end = self._columns.starts_N[index : index + 2].tolist()
        return self._columns.pieces_P[start:end].astype(np.int64)

    def origin(self, index: int) -> str:
        """`source:line` of one sentence, for messages."""
        place = int(self._columns.places_N[index])
        name, first = self._sources[bisect_right(self._sources, place, key=lambda item: item[1]) - 1]
        return f"{name}:{place - first + 1}"


class ColumnWriter:
    """Collects encoded sentences; with a folder it writes them there, a few million pieces at a time."""

    def __init__(self, vocab_size: int, folder: Path | None = None) -> None:
        self._folder = folder
        kind = "H" if vocab_size <= 1 << 16 else "I"
        self._parts = {name: array(code) for name, code in zip(Columns._fields, f"{kind}qIIq", strict=True)}
        self._parts["starts_N"].append(0)
        self._end = 0
        self.count = 0

    def add(self, pieces: Sequence[int], words: int, place: int) -> None:
        """Add a sentence."""
        self._end += len(pieces)
        self.count += 1
        self._parts["pieces_P"].extend(pieces)
        for name, value in (("starts_N", self._end), ("lens_N", len(pieces)), ("words_N", words)):
            self._parts[name].append(value)
        self._parts["places_N"].append(place)
        if self._folder is not None and len(self._parts["pieces_P"]) >= AT_ONCE:
            self._spill(self._folder)

    def columns(self) -> Columns:
        """All that were added."""
        if self._folder is not None:
            self._spill(self._folder)
            return read_columns(self._folder)
        return Columns(*(np.frombuffer(part, part.typecode) for part in self._parts.values()))

    def _spill(self, folder: Path) -> None:
        for name, part in self._parts.items():
            with (folder / f"{name}.{part.typecode}").open("ab") as file:
                part.tofile(file)
            del part[:]


def read_columns(folder: Path) -> Columns:
    """What a `ColumnWriter` has written to a folder, mapped into memory.

    Raises:
        FileNotFoundError: it is not all there.
    """
    columns = []
    for name in Columns._fields:
        path = next(folder.glob(f"{name}.?"), folder / name)
        columns.append(np.memmap(path, path.suffix[1:] or "B", "r"))
    return Columns(*columns)


def encode_sources(
    sources: Sequence[TextSource], tokenizer: Tokenizer, max_pieces: int, writer: ColumnWriter
) -> list[tuple[str, int]]:
    """Encode all sentences of some sources, and report what is left out.

    Returns:
        The name of each source, and how many lines are before it.

    Raises:
        UserError: nothing is left.
    """
    begins: list[tuple[str, int]] = []
    skipped: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    total = 0
    for source in sources:
        begins.append((source.name, total))
        for number, line in enumerate(source.lines, start=1):
            text = line.strip()
            found = tokenizer.encode(text)
            total += 1
            if total % SAY_LINES == 0:
                log.info("%s: %d million lines encoded", source.name, total // 1_000_000)
            if reason := _refusal(found, tokenizer, max_pieces):
                skipped[reason] += 1
                if skipped[reason] <= SHOWN:
                    examples.setdefault(reason, []).append(f"{source.name}:{number}")
                continue
            writer.add(found, len(split_words(tokenizer.normalize(text))), total - 1)
    names = ", ".join(source.name for source in sources) or "no text"
    for reason, count in skipped.items():
        where = ", ".join(examples[reason]) + (", ..." if count > SHOWN else "")
        log.warning("%s: %d of %d lines left out, %s: %s", names, count, total, reason, where)
    if not writer.count:
        raise UserError(f"{names}: no usable sentence")
    return begins


def text_sources(paths: Sequence[str]) -> list[TextSource]:
    """Text files as sources; reading them raises as `read_lines` does."""
    return [TextSource(path, read_lines(Path(path))) for path in paths]


def transcript_sources(data_dir: Path, parts: Sequence[str]) -> list[TextSource]:
    """The transcripts of prepared parts: read from their manifests line by line, each time anew.

    Raises:
        UserError: a part has not been prepared, or is damaged.
    """
    return [TextSource(part, _Transcripts(open_part(Path(data_dir), part))) for part in parts]


@dataclass(frozen=True)
class _Transcripts:
    index: PartIndex

    def __iter__(self) -> Iterator[str]:
        return self.index.texts()


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, which may be gzipped, with their ends; a line ends at a newline only.

    Raises:
        UserError: no such file, or not text; names it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such text file")
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="\n")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="\n") as file
        ):
            yield from file
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file: {error}") from None


def _refusal(pieces: list[int], tokenizer: Tokenizer, max_pieces: int) -> str:
    """Why a line is left out; empty if it is not."""
    if not pieces:
        return "empty"
    if len(pieces) > max_pieces:
        return f"longer than {max_pieces} pieces"
    if not set(pieces).isdisjoint((tokenizer.blank_id, tokenizer.sos_eos_id, tokenizer.unk_id)):
        return "special symbols, or characters unknown to the tokenizer"
    return ""
