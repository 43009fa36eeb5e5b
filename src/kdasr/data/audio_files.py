"""The audio files of a corpus: which one belongs to an utterance, and whether it is whole."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import soundfile

from kdasr.common.errors import UserError

AUDIO_SUFFIXES = (".flac", ".wav")
"""In the order of preference."""
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


class AudioHeader(NamedTuple):
    """What an audio file says of itself."""

    sample_rate: int
    channels: int
    num_samples: int
    """Of each channel."""


def read_headers(paths: Sequence[Path], jobs: int) -> list[AudioHeader]:
    """The header of each file.

    Raises:
        UserError: naming the files that are empty, truncated or not audio.
    """
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(_read_header, paths))
    broken = [
        f"{path} ({result})" for path, result in zip(paths, results, strict=True) if isinstance(result, str)
    ]
    if broken:
        raise UserError(
            f"{len(broken)} audio file(s) unreadable or truncated, copy them again: {quote(broken)}"
        )
    return [result for result in results if not isinstance(result, str)]


def _read_header(path: Path) -> AudioHeader | str:
    """The header, or what is wrong. The last sample is decoded: a truncated file has none."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames == 0:
                return "no samples"
            try:
                file.seek(file.frames - 1)
                complete = len(file.read(1)) == 1 and not _riff_is_cut(path)
            except soundfile.SoundFileError:
                complete = False
            return AudioHeader(file.samplerate, file.channels, file.frames) if complete else "ends early"
    except (soundfile.SoundFileError, OSError) as error:
        return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _riff_is_cut(path: Path) -> bool:
    """Whether a wav is shorter than its header says; libsndfile takes what is there without a word."""
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and 0 < size < 0xFFFFFFFF and path.stat().st_size < size + 8
