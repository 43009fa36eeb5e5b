"""LibriSpeech's layout: `<part>/<speaker>/<chapter>/`, audio beside `*.trans.txt`.

What a folder in this layout holds, and what it lacks, before anything is computed.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from kdasr.common.errors import UserError
from kdasr.common.folders import FoundFiles, find_files
from kdasr.common.lines import text_lines
from kdasr.common.logging import get_logger
from kdasr.corpora.audio_choice import AudioFiles
from kdasr.corpora.audio_part import AudioPart, AudioUtterance, Words, warn_of
from kdasr.corpora.base import Location, Place, Reading, register
from kdasr.corpora.librispeech_alignments import read_all
from kdasr.data.audio_files import is_audio, quote, read_headers
from kdasr.data.audio_reading import AudioHeader
from kdasr.data.bad import BadUtterance
from kdasr.data.fingerprint import fingerprints

log = get_logger(__name__)

TRANSCRIPT_SUFFIX = ".trans.txt"
_UTTERANCE_ID = re.compile(r"(.+-.+)-(\d+)")
"""`speaker-chapter-number`."""


@register
class LibriSpeech:
    """A folder in this layout: LibriSpeech itself, the synthetic corpus, or anybody's."""

    name: ClassVar[str] = "librispeech"

    def __init__(self, corpus_dir: Path, alignments_dir: Path, parts: Sequence[str]) -> None:
        """The folders that hold the parts; see `find_corpus` and `find_alignments`."""
        self.corpus_dir, self.alignments_dir = corpus_dir, alignments_dir
        self._parts = list(parts)

    @staticmethod
    def takes(location: Location) -> bool:
        """Any folder."""
        return location.corpus_dir is not None

    @classmethod
    def open(cls, location: Location, parts: Sequence[str]) -> "LibriSpeech":
        """
        Raises:
            UserError: no parts are named, or what `find_corpus` and `find_alignments` raise.
        """
        if not parts:
            raise UserError("--parts: name at least one part, such as 'train-clean-100 dev-clean'")
        corpus_dir = find_corpus(location.folder(cls.name), list(parts)).resolve()
        alignments_dir = find_alignments(location.alignments_dir, corpus_dir, list(parts)).resolve()
        return cls(corpus_dir, alignments_dir, parts)

    def parts(self) -> list[str]:
        """Those that were named."""
        return self._parts

    def settings(self) -> dict[str, Any]:
        """Both folders."""
        return {"corpus_dir": str(self.corpus_dir), "alignments_dir": str(self.alignments_dir)}

    def check(self, part: str, reading: Reading) -> "PartListing":
        """See `list_part`."""
        return list_part(self.corpus_dir, self.alignments_dir, part, reading.jobs, reading.keep_empty)

    @staticmethod
    def place(utterance_id: str) -> Place | None:
        """The chapter of an utterance, and its number in it."""
        found = _UTTERANCE_ID.fullmatch(utterance_id)
        return Place(found[1], float(found[2])) if found else None


@dataclass
class PartListing(AudioPart):
    """The usable content of one part, and what was missing."""

    missing_text: list[str] = field(default_factory=list)
    """Ids with audio and no transcript."""
    elsewhere: list[Path] = field(default_factory=list)
    """Audio in other folders that bears an id of `missing_audio`; not taken for it."""
    unused: list[Path] = field(default_factory=list)
    """Audio that bears the id of an utterance that has its own."""

    def notes(self) -> dict[str, Any]:
        """What is missing, and what is not used."""
        return {
            **super().notes(),
            "missing_text": self.missing_text,
            "unused_audio": [str(path) for path in (*self.elsewhere, *self.unused)],
        }

    def word_times(self, utterances: Sequence[AudioUtterance]) -> dict[str, Words]:
        """Those of the alignment files; see `kdasr.corpora.librispeech_alignments`."""
        return dict(read_all({item.alignment for item in utterances if item.alignment is not None}))


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


class _Found(NamedTuple):
    """A transcript whose audio was found."""

    id: str
    text: str
    audio: Path
    transcript: Path
    """The file that it is a line of."""


def list_part(
    corpus_dir: Path, alignments_dir: Path, part: str, jobs: int = 1, keep_empty: bool = False
) -> PartListing:
    """Match transcripts with audio and read each audio file's header and last sample.

    Links to folders and files are followed; hidden ones do not count. Utterances whose transcript is empty
    are left out, unless `keep_empty`; those whose audio cannot be read are, and stand in `bad`.

    Raises:
        UserError: no transcripts, a repeated line, or no audio at all.
    """
    folder = corpus_dir / part
    content = find_files(folder, lambda name: is_audio(name) or name.endswith(TRANSCRIPT_SUFFIX))
    transcripts = [file for file in content.files if not is_audio(file.name)]
    audio = AudioFiles(folder, (file for file in content.files if is_audio(file.name)))
    if not transcripts:
        broken = f"; links that lead nowhere: {quote(content.broken)}" if content.broken else ""
        raise UserError(f"{folder}: no transcripts (<speaker>-<chapter>.trans.txt) in this part{broken}")
    _log_content(part, content, len(audio), len(transcripts))
    listing = PartListing(part)
    found = _match(transcripts, audio, listing)
    listing.empty = sorted(item.id for item in found if not item.text)
    if not keep_empty:
        found = [item for item in found if item.text]
    if not found:
        if listing.empty:
            raise UserError(f"{folder}: all transcripts that have audio are empty: {quote(listing.empty)}")
        raise UserError(
            f"{folder}: none of its {len(listing.missing_audio)} transcripts has audio "
            "(<speaker>/<chapter>/<id>.flac)"
            + (f"; in other folders, so not theirs: {quote(listing.elsewhere)}" if listing.elsewhere else "")
        )
    headers = read_headers([item.audio for item in found], jobs)
    digest = hashlib.sha256()
    alignments: dict[Path, Path | None] = {}
    for file in transcripts:
        alignment = alignments_dir / file.parent.relative_to(corpus_dir)
        alignment = alignment / (file.name.removesuffix(TRANSCRIPT_SUFFIX) + ".alignment.txt")
        alignments[file] = alignment if alignment.is_file() else None
        for source in (file, alignment):
            digest.update(source.name.encode())
            digest.update(source.read_bytes() if source.is_file() else b"-")
    prints = fingerprints([item.audio for item in found], jobs)
    for item, header, audio_print in zip(found, headers, prints, strict=True):
        alignment_file = alignments[item.transcript]
        if isinstance(header, str):
            listing.bad.append(BadUtterance(item.id, str(item.audio), header))
        else:
            listing.utterances.append(_utterance(item, header, alignment_file))
        digest.update(f"{item.id} {item.audio.relative_to(folder)} ".encode() + audio_print)
    listing.utterances.sort(key=lambda utterance: utterance.id)
    listing.fingerprint = digest.hexdigest()
    _warn(listing, keep_empty)
    return listing


def _match(transcripts: list[Path], audio: AudioFiles, listing: PartListing) -> list[_Found]:
    """The transcripts that have audio; `listing` gets what is missing, and what is there twice."""
    found: list[_Found] = []
    seen: dict[str, Path] = {}
    for file in transcripts:
        for utterance_id, text in _transcripts(file):
            if utterance_id in seen:
                raise UserError(f"{file}: utterance '{utterance_id}' is also in {seen[utterance_id]}")
            seen[utterance_id] = file
            path, others = audio.choose(utterance_id, file.parent, _folder_of(utterance_id))
            if path is None:
                listing.missing_audio.append(utterance_id)
                listing.elsewhere += others
            else:
                listing.unused += others
                found.append(_Found(utterance_id, text, path, file))
    listing.missing_text = audio.without(seen)
    return found


def _folder_of(utterance_id: str) -> Path | None:
    """`<speaker>/<chapter>`, where an id says both."""
    speaker_and_chapter = utterance_id.split("-")[:-1]
    return Path(*speaker_and_chapter) if len(speaker_and_chapter) > 1 else None


def _utterance(found: _Found, header: AudioHeader, alignment: Path | None) -> AudioUtterance:
    speaker, dash, _ = found.id.partition("-")
    named = speaker if dash else None  # `0001` is the name of an utterance alone
    return AudioUtterance(found.id, found.text, found.audio, header, named, alignment=alignment)


def _transcripts(file: Path) -> Iterable[tuple[str, str]]:
    for line in text_lines(file):
        fields = line.split(maxsplit=1)
        if fields:
            yield fields[0], fields[1].strip() if len(fields) == 2 else ""


def _log_content(part: str, content: FoundFiles, num_audio: int, num_transcripts: int) -> None:
    """What was found, and what was not looked at."""
    linked = f"; through links: {quote(content.links)}" if content.links else ""
    log.info("%s: %d audio files, %d transcript files%s", part, num_audio, num_transcripts, linked)
    if content.hidden:
        log.info("%s: %d hidden, left out: %s", part, len(content.hidden), quote(content.hidden))
    if content.repeated:
        log.info(
            "%s: %d link(s) to folders that count already: %s",
            part, len(content.repeated), quote(content.repeated),
        )  # fmt: skip
    if content.broken:
        log.warning("%s: %d link(s) lead nowhere: %s", part, len(content.broken), quote(content.broken))


def _warn(listing: PartListing, keep_empty: bool) -> None:
    warn_of(
        listing.name,
        {
            f"empty transcript(s), {'kept' if keep_empty else 'left out'}": listing.empty,
            "transcript(s) without audio, left out": listing.missing_audio,
            "audio file(s) with the id of such a transcript, but in another folder than it, not used":
                listing.elsewhere,
            "more audio file(s) with the id of an utterance that has its own, not used": listing.unused,
            "audio file(s) without transcript, left out": listing.missing_text,
        },
    )  # fmt: skip
