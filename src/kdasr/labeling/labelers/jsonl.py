"""Labels that were made elsewhere: `jsonl:FILE`, a JSON object per line.

`{"id": "utt-1", "text": "...", "score": -0.2, "language": "en", "words": [["hello", 0.1, 0.5], ...]}`: `id`
and `text` must be there, `score` is the mean natural log-probability of a token, words have begin and end in
seconds. Utterances that the file lacks have no label, and are counted.
"""

# Shapes: N labels.

import json
import math
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.common.name_digests import name_digest, place_of
from kdasr.labeling.base import HeardWord, Label, LabelerOptions, Speech, register_labeler


@register_labeler("jsonl")
class JsonLinesLabeler:
    """Looks labels up by the id of the utterance: 16 bytes of each are in memory."""

    def __init__(self, place: str, options: LabelerOptions) -> None:
        """
        Raises:
            UserError: no such file, a line that is not a label, or an id that is there twice.
        """
        path = Path(place)
        if not path.is_file():
            raise UserError(f"jsonl:{path}: no such file")
        self._path, self._language = path, options.language
        self._digest = sha256(path)
        self._file = path.open("rb")
        names, begins, numbers = array("q"), array("q"), array("q")
        for line in self._lines():
            name, _ = _read(line.text, f"{path}, line {line.number}", self._language)
            names.append(name_digest(name))
            begins.append(line.begin)
            numbers.append(line.number)
        names_N = np.array(names, np.int64)
        order_N = np.argsort(names_N, kind="stable")
        self._names_N, self._begins_N = names_N[order_N], np.array(begins, np.int64)[order_N]
        again_N = order_N[1:][self._names_N[1:] == self._names_N[:-1]]
        if len(again_N):
            first = int(again_N.min())
            name, _ = self._label_at(begins[first])
            raise UserError(f"{path}, line {numbers[first]}: '{name}' is there twice")

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            self._file.close()

    def settings(self) -> dict[str, Any]:
        """The digest of the file, and the language of what does not say its own."""
        told = {} if self._language is None else {"language": self._language}
        return {"labeler": "jsonl", "file": self._digest, **told}

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """See `Labeler`."""
        return [self._label(item.id) for item in batch]

    def _label(self, name: str) -> Label:
        place = place_of(self._names_N, name)
        if place is None:
            return Label("", is_there=False)
        found, label = self._label_at(int(self._begins_N[place]))
        if found != name:
            raise UserError(f"{self._path}: was changed while it was read")
        return label

    def _label_at(self, begin: int) -> tuple[str, Label]:
        self._file.seek(begin)
        return _read(_text(self._file.readline(), self._path), f"{self._path}, byte {begin}", self._language)

    def _lines(self) -> Iterator["_Line"]:
        """Those with something on them."""
        begin = 0
        for number, line in enumerate(self._file, start=1):
            text = _text(line, self._path)
            if text.strip():
                yield _Line(number, begin, text)
            begin += len(line)


class _Line(NamedTuple):
    number: int
    """From 1 on."""
    begin: int
    """In bytes."""
    text: str


def _text(line: bytes, path: Path) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def _read(line: str, where: str, language: str | None) -> tuple[str, Label]:
    try:
        value = json.loads(line)
        name, text = value["id"], value["text"]
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError("id and text are strings")
        score = None if value.get("score") is None else float(value["score"])
        if score is not None and not math.isfinite(score):
            raise ValueError(f"score {score}")
        words = [_word(item) for item in value.get("words") or ()]
        return name, Label(text, score, language=value.get("language") or language, words=words)
    except KeyError as error:
        raise UserError(f"{where}: no {error}: expected {{'id': ..., 'text': ...}}") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a label: {error}") from None


def _word(item: Any) -> HeardWord:
    if isinstance(item, dict):
        item = [item["word"], item["start"], item["end"]]
    text, start, end = item[:3]
    text, start, end = str(text), float(start), float(end)
    if not (math.isfinite(start) and math.isfinite(end)):
        raise ValueError(f"'{text}' at {start} to {end}")
    return HeardWord(text, start, end)
