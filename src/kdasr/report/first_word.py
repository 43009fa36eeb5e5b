"""First words of decoded utterances, also of those that were decoded before `kdasr decode` measured them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdasr.data.text_normalization import split_words
from kdasr.evaluation.latency import first_token_of, since_onset


@dataclass(frozen=True)
class DecodedFirstWord:
    """What one line of `utterances.jsonl` says of the first word."""

    latency_ms: float | None = None
    wall_ms: float | None = None
    token: str | None = None


def first_word_of(row: Mapping[str, Any]) -> DecodedFirstWord:
    """As it was measured, or from the words and pieces of the line.

    Raises:
        KeyError: words without the time at which they were shown.
    """
    if "first_token" in row:
        return DecodedFirstWord(row["first_word_ms"], row["first_word_wall_ms"], row["first_token"])
    ref_words, words = row.get("ref_words") or (), row.get("words") or ()
    onset = next((word["start"] for word in ref_words), row.get("onset"))
    if onset is None:
        return DecodedFirstWord()
    first_ms = row.get("first_token_ms")
    shown = None if first_ms is None else onset + first_ms / 1000
    first_said = next((word.get("ref_index") for word in words), None)
    token = first_token_of(shown, onset, is_first_word=first_said == 0)
    found = next((word for word in words if word.get("ref_index") == 0), None)
    latency = since_onset(found["shown"], onset) if found else None
    wall = since_onset(found.get("wall"), onset) if found and latency is not None else None
    return DecodedFirstWord(latency, wall, token)


def last_word_is_right(row: Mapping[str, Any]) -> bool:
    """Whether the last reference word was recognized; true where the line does not say which words were."""
    words = row.get("words")
    if words is None:
        return True
    last = len(split_words(str(row["ref"]))) - 1
    return any(word.get("ref_index") == last for word in words)
