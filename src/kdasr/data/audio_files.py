"""Files of audio: which names count, and what their headers say; and names in messages."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kdasr.data.audio_reading import NOT_READ, AudioError, AudioHeader, read_header

AUDIO_SUFFIXES = (
    *(".flac", ".wav", ".w64", ".aiff", ".aif", ".au", ".caf", ".sph", ".ogg", ".opus", ".mp3"),
    *NOT_READ,
)
"""In the order of preference; the last ones are named rather than left out without a word."""
SHOWN = 5
"""Ids and files quoted in a message; the rest is counted."""


def quote(names: Iterable[object], count: int | None = None) -> str:
    """The first few of `names`, and how many more there are of `count`, if not all of them are given."""
    texts = [str(name) for name in names]
    more = (len(texts) if count is None else count) - SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return ", ".join(texts[:SHOWN]) + rest


def is_audio(name: str) -> bool:
    """Whether a file of this name counts as audio."""
    return name.lower().endswith(AUDIO_SUFFIXES)


def read_headers(paths: Sequence[Path], jobs: int) -> list[AudioHeader | str]:
    """The header of each file, or what is wrong with it: empty, truncated, not audio."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(_header_or_fault, paths))


def _header_or_fault(path: Path) -> AudioHeader | str:
    try:
        return read_header(path)
    except AudioError as fault:
        return fault.reason
