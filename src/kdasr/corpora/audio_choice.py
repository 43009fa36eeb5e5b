"""Which of the audio files of a part belongs to an utterance."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kdasr.data.audio_files import AUDIO_SUFFIXES


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

    def choose(self, utterance_id: str, folder: Path, also: Path | None = None) -> Choice:
        """The audio of an utterance whose transcript lies in `folder`.

        Names alone do not tell whose audio a file is: `0001.wav` may be in every folder, and degraded copies
        bear the names of the originals. So only these places count, the first that has a file of this name:
        `folder`; `also`, relative to the part's; one folder below `folder`. In one place a
        flac goes before a wav. None when no place has such a file, or several folders below `folder` have.
        """
        also = None if also is None else self._part_dir / also
        candidates = self._by_stem.get(utterance_id, [])
        ranked = [(_rank(path, folder, also), path) for path in candidates]
        best = min((rank for rank, _ in ranked if rank is not None), default=None)
        nearest = sorted((path for rank, path in ranked if rank == best), key=_preference)
        if best is None or len({path.parent for path in nearest}) > 1:
            return Choice(None, sorted(candidates))
        return Choice(nearest[0], sorted(path for path in candidates if path != nearest[0]))

    def without(self, ids: Iterable[str]) -> list[str]:
        """The names that are no utterance's, sorted."""
        return sorted(self._by_stem.keys() - set(ids))


def _rank(path: Path, folder: Path, also: Path | None) -> int | None:
    """0: the best place; None: no place for this utterance."""
    if path.parent == folder:
        return 0
    if path.parent == also:
        return 1
    return 2 if path.is_relative_to(folder) else None


def _preference(path: Path) -> tuple[int, Path]:
    return AUDIO_SUFFIXES.index(path.suffix.lower()), path
