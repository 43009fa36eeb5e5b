"""NeMo's manifest of `transcribe_speech.py` with timestamps: a JSON object per line.

`timestamps_word` (or `timestamp`: {`word`: [...]}, as hypotheses have it) lists `word`, and `start` and `end`
in seconds. Where there are only `start_offset` and `end_offset`, in encoder frames, the object must have the
seconds of a frame as `frame_seconds`. The id is `id`, `utt_id`, or the name of `audio_filepath` without its
folder and suffix. The end of a word is where its last piece is taken to have been emitted.
"""

from pathlib import Path
from typing import Any

from kdasr.evaluation.foreign.base import (
    HeardWord,
    Hypothesis,
    json_lines,
    not_in_format,
    register_format,
)


@register_format("nemo")
def read(path: Path) -> list[Hypothesis]:
    """See the module.

    Raises:
        UserError: a line without an id or times of words.
    """
    found = []
    for number, entry in json_lines(path, "nemo"):
        try:
            found.append(Hypothesis(_id(entry), [_word(item, entry) for item in _items(entry)]))
        except (KeyError, TypeError, ValueError) as error:
            raise not_in_format(path, number, "nemo", error) from None
    return found


def _id(entry: dict[str, Any]) -> str:
    for key in ("id", "utt_id"):
        if entry.get(key):
            return str(entry[key])
    if not entry.get("audio_filepath"):
        raise ValueError("no 'audio_filepath' that would name the utterance")
    return Path(str(entry["audio_filepath"])).stem


def _items(entry: dict[str, Any]) -> list[dict[str, Any]]:
    nested = entry.get("timestamp") or entry.get("timestep") or {}
    items = entry.get("timestamps_word", nested.get("word") if isinstance(nested, dict) else None)
    if items is None:
        if any(str(entry[key]).strip() for key in entry if key.startswith(("pred_text", "text_pred"))):
            raise ValueError("no 'timestamps_word': transcribe with compute_timestamps=true")
        return []  # nothing was recognized
    return list(items)


def _word(item: dict[str, Any], entry: dict[str, Any]) -> HeardWord:
    text = str(item["word"] if "word" in item else item["char"])
    if "start" in item and "end" in item:
        return HeardWord(text, float(item["start"]), float(item["end"]), is_end=True)
    if "frame_seconds" not in entry:
        raise ValueError("words have offsets in frames only: add 'frame_seconds' to each object")
    seconds = float(entry["frame_seconds"])
    first, last = (seconds * float(item[key]) for key in ("start_offset", "end_offset"))
    return HeardWord(text, first, last, is_end=True)
