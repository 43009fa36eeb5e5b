"""sherpa-onnx's results as JSON: `tokens` and `timestamps` (seconds), `start_time` of the segment.

A file is one object of the utterance that the file's name says, or one object per line that names its
utterance (`id`, `key`, `filename` or `audio`), or what the command `sherpa-onnx` prints: each object after a
line that is the path of the recording. Several segments of one utterance are joined.
"""

import json
import re
from pathlib import Path
from typing import Any

from kdasr.common.lines import text_lines
from kdasr.evaluation.foreign.base import (
    HeardWord,
    Hypothesis,
    not_in_format,
    register_format,
    words_of_pieces,
)

_AUDIO = re.compile(r"(\S.*)\.(wav|flac|mp3|ogg|opus|m4a)", re.IGNORECASE)
_KEYS = ("id", "key", "filename", "audio")


@register_format("sherpa")
def read(path: Path) -> list[Hypothesis]:
    """See the module.

    Raises:
        UserError: an object without tokens and times, or without an utterance; or two recordings of one name.
    """
    try:
        whole = json.loads("\n".join(text_lines(path)))
    except json.JSONDecodeError:
        whole = None
    if isinstance(whole, dict):
        known = _named(whole)
        return [Hypothesis(known[0] if known else path.stem, _words(path, 1, whole))]
    found: dict[str, list[HeardWord]] = {}
    named_as: dict[str, str] = {}  # as the file has it: with folder and suffix
    current: tuple[str, str] | None = None
    for number, line in enumerate(text_lines(path), start=1):
        text = line.strip()
        named = _AUDIO.fullmatch(text)
        if named:
            current = Path(named[1]).name, text
        if not text.startswith("{"):
            continue
        try:
            entry = json.loads(text)
        except json.JSONDecodeError as error:
            raise not_in_format(path, number, "sherpa", error) from None
        known = _named(entry) or current
        if known is None:
            raise not_in_format(path, number, "sherpa", "nothing names the utterance of this object")
        name, full = known
        if (other := named_as.setdefault(name, full)) != full:
            raise not_in_format(path, number, "sherpa", f"{other} and {full} are both utterance '{name}'")
        found.setdefault(name, []).extend(_words(path, number, entry))
    return [Hypothesis(name, words) for name, words in found.items()]


def _named(entry: dict[str, Any]) -> tuple[str, str] | None:
    """The utterance of an object, and its name as the object has it."""
    name = next((str(entry[key]) for key in _KEYS if entry.get(key)), None)
    if name is None:
        return None
    audio = _AUDIO.fullmatch(name)
    return Path(audio[1]).name if audio else name, name


def _words(path: Path, number: int, entry: dict[str, Any]) -> list[HeardWord]:
    if "tokens" not in entry or "timestamps" not in entry:
        raise not_in_format(path, number, "sherpa", "no 'tokens' and 'timestamps'")
    try:
        start = float(entry.get("start_time") or 0.0)
        times = [start + float(time) for time in entry["timestamps"]]
        return words_of_pieces([str(token) for token in entry["tokens"]], times)
    except (TypeError, ValueError) as error:
        raise not_in_format(path, number, "sherpa", error) from None
