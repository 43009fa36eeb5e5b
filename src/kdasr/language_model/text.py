"""Text for language models: files with a sentence per line, as pieces."""

import gzip
import hashlib
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.ranges import MAY_MOVE, Items, at_least
from kdasr.data.audio_files import SHOWN
from kdasr.data.folder import load_cuts
from kdasr.data.same_data import Description
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import cut_text

# Shapes: N sentences.

log = get_logger(__name__)


@dataclass
class TextConfig:
    """Text to train a language model on, and text to measure it on."""

    dir: Annotated[str, MAY_MOVE] = "data"
    """The prepared folder: its tokenizer, and the transcripts of `dev_parts`."""
    train_text: Annotated[list[str], Items(), MAY_MOVE] = field(default_factory=list)
    """Files with one sentence per line, spelled as transcripts are; gzipped if they end in .gz."""
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


class EncodedText:
    """Sentences as pieces, in little memory: two bytes per piece.

    Empty lines, sentences that are too long, and those with characters that the tokenizer does not know are
    counted, reported and left out.
    """

    def __init__(self, sources: Sequence[TextSource], tokenizer: Tokenizer, max_pieces: int) -> None:
        """
        Raises:
            UserError: nothing is left.
        """
        pieces = array("H" if tokenizer.vocab_size <= 1 << 16 else "I")
        starts, words, places = array("Q", [0]), array("I"), array("Q")
        self._sources: list[tuple[str, int]] = []
        skipped: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        total = 0
        for source in sources:
            self._sources.append((source.name, total))
            for number, line in enumerate(source.lines, start=1):
                text = line.strip()
                found = tokenizer.encode(text)
                total += 1
                if reason := _refusal(found, tokenizer, max_pieces):
                    skipped[reason] += 1
                    if skipped[reason] <= SHOWN:
                        examples.setdefault(reason, []).append(f"{source.name}:{number}")
                    continue
                pieces.extend(found)
                starts.append(len(pieces))
                words.append(len(split_words(tokenizer.normalize(text))))
                places.append(total - 1)
        names = ", ".join(source.name for source in sources) or "no text"
        for reason, count in skipped.items():
            where = ", ".join(examples[reason]) + (", ..." if count > SHOWN else "")
            log.warning("%s: %d of %d lines left out, %s: %s", names, count, total, reason, where)
        if not words:
            raise UserError(f"{names}: no usable sentence")
        self.num_words_N: NDArray[np.uint32] = np.frombuffer(words, np.dtype(f"u{words.itemsize}"))
        self._starts = np.frombuffer(starts, np.uint64).astype(np.int64)
        self.lens_N: NDArray[np.int64] = np.diff(self._starts)
        """Pieces of each sentence, the end not counted."""
        self._pieces = np.frombuffer(pieces, np.dtype(f"u{pieces.itemsize}"))
        self._places = places
        self.num_lines = total

    def __len__(self) -> int:
        return len(self.num_words_N)

    def digest(self) -> str:
        """SHA-256 of the sentences in their order."""
        digest = hashlib.sha256(self._pieces.astype("<u4").tobytes())
        digest.update(self.lens_N.astype("<i8").tobytes())
        return digest.hexdigest()

    def description(self) -> Description:
        """What a training on these sentences remembers of them (see `kdasr.data.same_data`)."""
        return {"sentences": len(self), "digest": self.digest()}

    def pieces(self, index: int) -> NDArray[np.int64]:
        """The pieces of one sentence."""
        return self._pieces[self._starts[index] : self._starts[index + 1]].astype(np.int64)

    def origin(self, index: int) -> str:
        """`source:line` of one sentence, for messages."""
        place = self._places[index]
        name, first = self._sources[bisect_right(self._sources, place, key=lambda item: item[1]) - 1]
        return f"{name}:{place - first + 1}"


def text_sources(paths: Sequence[str]) -> list[TextSource]:
    """Text files as sources; reading them raises as `read_lines` does."""
    return [TextSource(path, read_lines(Path(path))) for path in paths]


def transcript_sources(data_dir: Path, parts: Sequence[str]) -> list[TextSource]:
    """The transcripts of prepared parts.

    Raises:
        UserError: a part has not been prepared.
    """
    return [TextSource(part, [cut_text(cut) for cut in load_cuts(data_dir, part)]) for part in parts]


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
    except (gzip.BadGzipFile, EOFError) as error:
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
