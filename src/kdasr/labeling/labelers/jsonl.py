"""Labels that were made elsewhere: `jsonl:FILE`, a JSON object per line.

`{"id": "utt-1", "text": "...", "score": -0.2, "language": "en", "words": [["hello", 0.1, 0.5], ...]}`: `id`
and `text` must be there, `score` is the mean natural log-probability of a token, words have begin and end in
seconds. Utterances that the file lacks have no label, and are counted.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.common.lines import text_lines
from kdasr.labeling.base import HeardWord, Label, LabelerOptions, Speech, register_labeler


@register_labeler("jsonl")
class JsonLinesLabeler:
    """Looks labels up by the id of the utterance."""

    def __init__(self, place: str, options: LabelerOptions) -> None:
        """
        Raises:
            UserError: no such file, a line that is not a label, or an id that is there twice.
        """
        path = Path(place)
        if not path.is_file():
            raise UserError(f"jsonl:{path}: no such file")
        self._digest = sha256(path)
        self._labels: dict[str, Label] = {}
        for number, line in enumerate(text_lines(path), start=1):
            if not line.strip():
                continue
            name, label = _read(line, f"{path}, line {number}", options.language)
            if name in self._labels:
                raise UserError(f"{path}, line {number}: '{name}' is there twice")
            self._labels[name] = label

    def settings(self) -> dict[str, Any]:
        """The digest of the file."""
        return {"labeler": "jsonl", "file": self._digest}

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """See `Labeler`."""
        return [self._labels.get(item.id, Label("", is_there=False)) for item in batch]


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
    return HeardWord(str(text), float(start), float(end))
