"""What every format is read into, and the registry of formats."""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines
from kdasr.common.registry import Registry
from kdasr.recognition.result import letters_of_bytes


@dataclass(frozen=True)
class HeardWord:
    """A recognized word, as it is written, with the audio times (seconds) of its first and last piece.

    Raises:
        ValueError: a time is not finite.
    """

    text: str
    first: float
    last: float
    is_end: bool = False
    """Whether `last` is the end of the last piece's frame, not its begin: then the chunk that ends there
    has the whole of it."""

    def __post_init__(self) -> None:
        """Check the times."""
        if not (math.isfinite(self.first) and math.isfinite(self.last)):
            raise ValueError(f"'{self.text}' has no finite times: {self.first}, {self.last}")


@dataclass(frozen=True)
class Hypothesis:
    """What a system has recognized of one utterance."""

    id: str
    words: list[HeardWord]


Reader = Callable[[Path], list[Hypothesis]]
"""Reads a file.

Raises:
    UserError: it is not in the format; names file and line.
"""
_FORMATS: Registry[Reader] = Registry("format")


def register_format(name: str) -> Callable[[Reader], Reader]:
    """Make a format known by its name; a decorator.

    Raises:
        ValueError: another one has that name.
    """
    return _FORMATS.register(name)


def known_formats() -> list[str]:
    """Their names."""
    return sorted(_FORMATS)


def read_hypotheses(path: Path, format_name: str) -> dict[str, Hypothesis]:
    """One system's hypotheses by utterance: a file, or all files of a folder.

    Raises:
        UserError: no such file or format, a file that is not in it, or an utterance that is there twice.
    """
    if format_name not in _FORMATS:
        raise UserError(f"--format {format_name}: known are {', '.join(known_formats())}")
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    found: dict[str, Hypothesis] = {}
    for file in files:
        for hypothesis in _FORMATS[format_name](file):
            if hypothesis.id in found:
                raise UserError(f"{file}: utterance '{hypothesis.id}' is there twice")
            found[hypothesis.id] = hypothesis
    if not found:
        raise UserError(f"{path}: holds no utterance in the format '{format_name}'")
    return found


def not_in_format(path: Path, number: int, name: str, reason: object) -> UserError:
    """The error for a line that does not parse."""
    return UserError(f"{path}, line {number}: not in the format '{name}': {reason}")


def json_lines(path: Path, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number and the object of every line that is not empty.

    Raises:
        UserError: a line is not a JSON object.
    """
    for number, line in enumerate(text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise not_in_format(path, number, name, error) from None
        if not isinstance(value, dict):
            raise not_in_format(path, number, name, "expected a JSON object")
        yield number, value


def words_of_pieces(pieces: Iterable[str], times: Iterable[float]) -> list[HeardWord]:
    """Words from word pieces that begin with a space (or SentencePiece's mark for it) where a word does.

    Raises:
        ValueError: other than one time for each piece.
    """
    words: list[HeardWord] = []
    begins = True
    for piece, time in zip(pieces, times, strict=True):
        text = piece.replace("\u2581", " ")
        begins = begins or text.startswith(" ")
        if text.strip():
            if begins:
                words.append(HeardWord(text.strip(), float(time), float(time)))
            else:
                words[-1] = HeardWord(words[-1].text + text.strip(), words[-1].first, float(time))
            begins = False
    return [replace(word, text=letters_of_bytes(word.text)) for word in words]
