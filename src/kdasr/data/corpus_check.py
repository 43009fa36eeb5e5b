"""What a folder in LibriSpeech's layout holds, and what it lacks, before anything is computed."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import soundfile

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger

log = get_logger(__name__)

AUDIO_SUFFIXES = (".flac", ".wav")
SHOWN = 5
"""Ids and files quoted in a message; the rest is counted."""


class Utterance(NamedTuple):
    """One line of a `*.trans.txt` file and the audio it belongs to."""

    id: str
    text: str
    audio: Path
    sample_rate: int
    channels: int
    alignment: Path | None
    """The file with the word times of its chapter, where there is one."""


@dataclass
class PartListing:
    """The usable content of one part, and what was missing."""

    name: str
    utterances: list[Utterance]
    missing_audio: list[str] = field(default_factory=list)
    """Ids with a transcript and no audio."""
    missing_text: list[str] = field(default_factory=list)
    """Ids with audio and no transcript."""
    fingerprint: str = ""
    """Changes with the transcripts, the alignments and the audio files' sizes."""


def find_corpus(corpus_dir: Path, parts: list[str]) -> Path:
    """The folder that holds the parts: `corpus_dir`, or `LibriSpeech` within it.

    Raises:
        UserError: no such folder, or a part that is not in it; the message names what is there.
    """
    corpus_dir = Path(corpus_dir)
    if not corpus_dir.is_dir():
        raise UserError(f"{corpus_dir}: no such corpus folder")
    if not any((corpus_dir / part).is_dir() for part in parts) and (corpus_dir / "LibriSpeech").is_dir():
        corpus_dir = corpus_dir / "LibriSpeech"
    missing = [part for part in parts if not (corpus_dir / part).is_dir()]
    if missing:
        there = sorted(path.name for path in corpus_dir.iterdir() if path.is_dir())
        raise UserError(
            f"{corpus_dir}: no part '{missing[0]}' (LibriSpeech's layout: <part>/<speaker>/<chapter>/); "
            f"folders there: {', '.join(there) or 'none'}"
        )
    return corpus_dir


def find_alignments(alignments_dir: Path | None, corpus_dir: Path, parts: list[str]) -> Path:
    """The folder whose parts hold `*.alignment.txt`; the corpus itself when none is given.

    Raises:
        UserError: no such folder, or it has none of the parts.
    """
    if alignments_dir is None:
        return corpus_dir
    for folder in (Path(alignments_dir), Path(alignments_dir) / "LibriSpeech"):
        if any((folder / part).is_dir() for part in parts):
            return folder
    if not Path(alignments_dir).is_dir():
        raise UserError(f"{alignments_dir}: no such alignments folder")
    raise UserError(f"{alignments_dir}: holds none of the parts {', '.join(parts)}")


def list_part(corpus_dir: Path, alignments_dir: Path, part: str, jobs: int = 1) -> PartListing:
    """Match transcripts with audio and read each audio file's header and last sample.

    Raises:
        UserError: no transcripts, a malformed or repeated line, no audio at all, or unreadable files.
    """
    folder = corpus_dir / part
    transcript_files = sorted(folder.rglob("*.trans.txt"))
    if not transcript_files:
        raise UserError(f"{folder}: no transcripts (<speaker>-<chapter>.trans.txt) in this part")
    audio = _audio_files(folder)
    listing = PartListing(part, [])
    found: list[tuple[str, str, Path, Path | None]] = []
    seen: dict[str, Path] = {}
    digest = hashlib.sha256()
    for file in transcript_files:
        alignment = alignments_dir / file.parent.relative_to(corpus_dir)
        alignment = alignment / (file.name.removesuffix(".trans.txt") + ".alignment.txt")
        for source in (file, alignment):
            digest.update(source.name.encode())
            digest.update(source.read_bytes() if source.is_file() else b"-")
        for utterance_id, text in _transcripts(file):
            if utterance_id in seen:
                raise UserError(f"{file}: utterance '{utterance_id}' is also in {seen[utterance_id]}")
            seen[utterance_id] = file
            path = audio.get(utterance_id)
            if path is None:
                listing.missing_audio.append(utterance_id)
            else:
                found.append((utterance_id, text, path, alignment if alignment.is_file() else None))
    listing.missing_text = sorted(set(audio) - set(seen))
    if not found:
        raise UserError(
            f"{folder}: none of its {len(seen)} transcripts has audio (<speaker>/<chapter>/<id>.flac)"
        )
    headers = _read_headers([path for _, _, path, _ in found], jobs)
    for (utterance_id, text, path, alignment_file), (rate, channels) in zip(found, headers, strict=True):
        listing.utterances.append(Utterance(utterance_id, text, path, rate, channels, alignment_file))
        digest.update(f"{utterance_id} {path.stat().st_size}".encode())
    listing.utterances.sort(key=lambda utterance: utterance.id)
    listing.fingerprint = digest.hexdigest()
    _warn(listing)
    return listing


def quote(names: Iterable[object]) -> str:
    """The first few of `names`, and how many more there are."""
    texts = [str(name) for name in names]
    rest = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + rest


def _audio_files(folder: Path) -> dict[str, Path]:
    """Utterance id -> audio file; a flac wins over a wav of the same id."""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO_SUFFIXES and not path.name.startswith("."):
            files.setdefault(path.stem, path)
    return files


def _transcripts(file: Path) -> Iterable[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text") from None
    for number, line in enumerate(lines, start=1):
        fields = line.split(maxsplit=1)
        if len(fields) == 2:
            yield fields[0], fields[1].strip()
        elif fields:
            raise UserError(f"{file}, line {number}: expected '<id> <TRANSCRIPT>', found '{line.strip()}'")


def _read_headers(paths: list[Path], jobs: int) -> list[tuple[int, int]]:
    """(sample rate, channels) of each file.

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


def _read_header(path: Path) -> tuple[int, int] | str:
    """(sample rate, channels), or what is wrong. The last sample is decoded: a truncated file has none."""
    try:
        with soundfile.SoundFile(path) as file:
            if file.frames == 0:
                return "no samples"
            try:
                file.seek(file.frames - 1)
                complete = len(file.read(1)) == 1 and not _riff_is_cut(path)
            except soundfile.SoundFileError:
                complete = False
            return (file.samplerate, file.channels) if complete else "ends early"
    except (soundfile.SoundFileError, OSError) as error:
        return str(getattr(error, "error_string", error)).strip().rstrip(".")


def _riff_is_cut(path: Path) -> bool:
    """Whether a wav is shorter than its header says; libsndfile takes what is there without a word."""
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head[4:8], "little")
    return head[:4] == b"RIFF" and 0 < size < 0xFFFFFFFF and path.stat().st_size < size + 8


def _warn(listing: PartListing) -> None:
    if listing.missing_audio:
        log.warning(
            "%s: %d transcript(s) without audio, left out: %s",
            listing.name, len(listing.missing_audio), quote(listing.missing_audio),
        )  # fmt: skip
    if listing.missing_text:
        log.warning(
            "%s: %d audio file(s) without transcript, left out: %s",
            listing.name, len(listing.missing_text), quote(listing.missing_text),
        )  # fmt: skip
