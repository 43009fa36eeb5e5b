"""The audio files of a corpus: which one belongs to an utterance, and whether it is whole."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kdasr.data.audio_reading import NOT_READ, AudioError, AudioHeader, read_header

AUDIO_SUFFIXES = (
    *(".flac", ".wav", ".w64", ".aiff", ".aif", ".au", ".caf", ".sph", ".ogg", ".opus", ".mp3"),
    *NOT_READ,
)
"""In the order of preference; the last ones are named rather than left out without a word."""
SHOWN = 5
"""Ids and files quoted in a message; the rest is counted."""


def quote(names: Iterable[object]) -> str:
    """The first few of `names`, and how many more there are."""
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + rest


def is_audio(name: str) -> bool:
    """Whether a file of this name counts as audio."""
    return name.lower().endswith(AUDIO_SUFFIXES)


class Choice(NamedTuple):
    """The audio file of an utterance, and the files of the same name that are not."""

    audio: Path | None
    others: list[Path]


class AudioFiles:
    """The audio files of a part, by their names without suffix."""

    def __init__(self, part_dir: Path, files: Iterable[Path]) -> None:
        self._part_dir = part_dir
        self._by_stem: dict[str, list[Path]] = {}
        for file in files:
            self._by_stem.setdefault(file.stem, []).append(file)

    def __len__(self) -> int:
        return sum(map(len, self._by_stem.values()))

    def choose(self, utterance_id: str, folder: Path) -> Choice:
        """The audio of an utterance whose transcript lies in `folder`.

        Names alone do not tell whose audio a file is: `0001.wav` may be in every folder, and degraded copies
        bear the names of the originals. So only these places count, the first that has a file of this name:
        `folder`; `<speaker>/<chapter>` of a LibriSpeech id; one folder below `folder`. In one place a flac
        goes before a wav. None when no place has such a file, or several folders below `folder` have.
        """
        candidates = self._by_stem.get(utterance_id, [])
        ranked = [(self._rank(path, utterance_id, folder), path) for path in candidates]
        best = min((rank for rank, _ in ranked if rank is not None), default=None)
        nearest = sorted((path for rank, path in ranked if rank == best), key=_preference)
        if best is None or len({path.parent for path in nearest}) > 1:
            return Choice(None, sorted(candidates))
        return Choice(nearest[0], sorted(path for path in candidates if path != nearest[0]))

    def without(self, ids: Iterable[str]) -> list[str]:
        """The names that are no utterance's, sorted."""
        return sorted(self._by_stem.keys() - set(ids))

    def _rank(self, path: Path, utterance_id: str, folder: Path) -> int | None:
        """0: the best place; None: no place for this utterance."""
        if path.parent == folder:
            return 0
        speaker_and_chapter = utterance_id.split("-")[:-1]
        if len(speaker_and_chapter) > 1 and path.parent == self._part_dir.joinpath(*speaker_and_chapter):
            return 1
        return 2 if path.is_relative_to(folder) else None


def _preference(path: Path) -> tuple[int, Path]:
    return AUDIO_SUFFIXES.index(path.suffix.lower()), path


def read_headers(paths: Sequence[Path], jobs: int) -> list[AudioHeader | str]:
    """The header of each file, or what is wrong with it: empty, truncated, not audio."""
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(_header_or_fault, paths))


def _header_or_fault(path: Path) -> AudioHeader | str:
    try:
        return read_header(path)
    except AudioError as fault:
        return fault.reason
