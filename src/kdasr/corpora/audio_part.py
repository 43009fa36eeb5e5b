"""A part whose utterances have audio files of their own: checked, converted where needed, and made cuts."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lhotse import AudioSource, Recording, SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.name_digests import name_digest
from kdasr.corpora.base import PartCuts, Reading
from kdasr.corpora.conversion import Source, convert_all, needs_conversion
from kdasr.corpora.remarks import Remarks
from kdasr.data.audio_files import quote, read_headers
from kdasr.data.audio_reading import AudioHeader, read_audio
from kdasr.data.bad import BadUtterance
from kdasr.data.fingerprint import fingerprints
from kdasr.data.text_normalization import TextNormalizer
from kdasr.data.word_times import fault_in_times

log = get_logger(__name__)

_AT_ONCE = 256
"""Utterances whose cuts are made together."""

Words = Sequence[AlignmentItem]
"""Words of an utterance in their order, in seconds from its begin; an empty word is a silence."""


class AudioUtterance(NamedTuple):
    """What is said in an audio file."""

    id: str
    text: str
    audio: Path
    header: AudioHeader
    speaker: str | None = None
    language: str | None = None
    alignment: Any = None
    """Word times (`Words`), or what `AudioPart.word_times` makes them of; None where there are none."""


@dataclass
class AudioPart:
    """The usable utterances of one part, and what was wrong with others: a `Part`."""

    name: str
    utterances: list[AudioUtterance] = field(default_factory=list)
    bad: list[BadUtterance] = field(default_factory=list)
    """Utterances whose audio is empty, truncated or not audio."""
    empty: list[str] = field(default_factory=list)
    """Ids with an empty transcript."""
    fingerprint: str = ""
    missing_audio: list[str] = field(default_factory=list)
    """Ids with a transcript and no audio."""

    by_id: bool = False

    @property
    def num_utterances(self) -> int:
        """Those that can be used."""
        return len(self.utterances)

    def ids(self) -> Iterator[str]:
        """Of `utterances`."""
        return (item.id for item in self.utterances)

    def digests(self) -> NDArray[np.int64]:
        """Of `ids`, sorted."""
        return np.sort(np.fromiter(map(name_digest, self.ids()), np.int64, len(self.utterances)))

    def notes(self) -> dict[str, Any]:
        """What is missing."""
        return {"missing_audio": self.missing_audio}

    def word_times(self, utterances: Sequence[AudioUtterance]) -> dict[str, Words]:
        """The word times that there are of some utterances, perhaps of others too; not checked yet.

        Raises:
            UserError: they cannot be read.
        """
        return {item.id: item.alignment for item in utterances if item.alignment is not None}

    def alignments(
        self, utterances: Sequence[AudioUtterance], remarks: Remarks
    ) -> dict[str, list[AlignmentItem]]:
        """The word times of some utterances that can be true; see `sound_alignments`."""
        seconds = {item.id: item.header.num_samples / item.header.sample_rate for item in utterances}
        texts = {item.id: item.text for item in utterances}
        return sound_alignments(self.word_times(utterances), texts, seconds, remarks)

    def cuts(self, some: range, converted_dir: Path, jobs: int) -> Iterator[PartCuts]:
        """One cut per utterance, in the order of `utterances`. Word times lose the silences.

        Audio at another rate than 16 kHz, with several channels, or in another format than flac and wav is
        converted.
        """
        for start in range(some.start, some.stop, _AT_ONCE):
            yield self._cuts(self.utterances[start : min(start + _AT_ONCE, some.stop)], converted_dir, jobs)

    def _cuts(self, utterances: Sequence[AudioUtterance], converted_dir: Path, jobs: int) -> PartCuts:
        remarks = Remarks()
        alignments = self.alignments(utterances, remarks)
        recordings = {utterance.id: _recording(utterance) for utterance in utterances}
        bad: list[BadUtterance] = []
        sources = [_source(item) for item in utterances if needs_conversion(item.header)]
        for converted in convert_all(sources, converted_dir, jobs, remarks):
            if isinstance(converted, BadUtterance):
                bad.append(converted)
                del recordings[converted.id]
            else:
                recordings[converted.id] = converted
        cuts = [
            _cut(utterance, recordings[utterance.id], alignments.get(utterance.id))
            for utterance in utterances
            if utterance.id in recordings
        ]
        return PartCuts(cuts, bad, remarks)


def _source(item: AudioUtterance) -> Source:
    return Source(item.id, str(item.audio), item.header.sample_rate, partial(read_audio, item.audio))


class Told(NamedTuple):
    """What a corpus says of an utterance: an `AudioUtterance` whose audio was not looked at yet."""

    id: str
    text: str
    audio: Path
    speaker: str | None = None
    language: str | None = None
    alignment: Words | None = None


def audio_part(name: str, told: Iterable[Told], reading: Reading) -> AudioPart:
    """Check the audio of some utterances, and say what of them cannot be used.

    Utterances whose transcript is empty are left out, unless `reading.keep_empty`; those without audio are,
    and those whose audio cannot be read stand in `bad`.

    Raises:
        UserError: an id that is there twice, or nothing usable at all.
    """
    part, digest = AudioPart(name), hashlib.sha256()
    found: list[Told] = []
    seen: set[str] = set()
    for item in told:
        if item.id in seen:
            raise UserError(f"{name}: utterance '{item.id}' is there twice")
        seen.add(item.id)
        digest.update(repr(item).encode())
        if not item.audio.is_file():
            part.missing_audio.append(item.id)
        elif not item.text.strip():
            part.empty.append(item.id)
            found += [item] if reading.keep_empty else []
        else:
            found.append(item)
    headers = read_headers([item.audio for item in found], reading.jobs)
    for item, header in zip(found, headers, strict=True):
        if isinstance(header, str):
            part.bad.append(BadUtterance(item.id, str(item.audio), header))
        else:
            fields = item._asdict() | {"text": item.text.strip(), "header": header}
            part.utterances.append(AudioUtterance(**fields))
    for audio_print in fingerprints([item.audio for item in found], reading.jobs):
        digest.update(audio_print)
    part.fingerprint = digest.hexdigest()
    warn_of(
        name,
        {
            **reading.faults_of_text({"empty transcript(s), {}": part.empty}),
            "transcript(s) without audio, left out": part.missing_audio,
        },
    )
    if not found:
        raise UserError(f"{name}: none of its {len(seen)} utterances has both audio and a transcript")
    return part


def warn_of(part: str, faults: dict[str, Sequence[object]]) -> None:
    """Log each kind of fault that there is, with its count and the first names."""
    for what, names in faults.items():
        if names:
            log.warning("%s: %d %s: %s", part, len(names), what, quote(names))


def sound_alignments(
    read: dict[str, Words], texts: dict[str, str], seconds: dict[str, float], remarks: Remarks
) -> dict[str, list[AlignmentItem]]:
    """The word times of each utterance that can be true.

    The others are left out, and counted in `remarks`, as are those whose words are not the transcript's.

    Args:
        read: word times by utterance, of more utterances perhaps.
        texts: the transcripts, by utterance, in their order.
        seconds: durations.
        remarks: gets what is said of them.
    """
    alignments: dict[str, list[AlignmentItem]] = {}
    faults: list[str] = []
    different: list[str] = []
    normalize = TextNormalizer()
    for name, text in texts.items():
        items = read.get(name)
        if items is None:
            continue
        fault = fault_in_times(items, seconds[name]) if items else "words and times are not equally many"
        if fault:
            faults.append(f"{name} ({fault})")
            continue
        alignments[name] = list(items)
        words = " ".join(item.symbol for item in items if item.symbol)
        if normalize(words).casefold() != normalize(text).casefold():
            different.append(name)
    remarks.fault("alignment(s) left out, with times that cannot be true", faults)
    remarks.fault("alignment(s) whose words are not the transcript's", different)
    remarks.aligned += len(alignments)
    remarks.utterances += len(texts)
    return alignments


def _recording(utterance: AudioUtterance) -> Recording:
    """What `Recording.from_file` makes of the audio, from the header that was read already."""
    rate, channels, num_samples = utterance.header[:3]
    return Recording(
        id=utterance.id,
        sources=[AudioSource("file", list(range(channels)), str(utterance.audio))],
        sampling_rate=rate,
        num_samples=num_samples,
        duration=num_samples / rate,
    )


def _cut(utterance: AudioUtterance, recording: Recording, words: list[AlignmentItem] | None) -> MonoCut:
    supervision = SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        speaker=utterance.speaker,
        language=utterance.language,
        text=utterance.text,
        alignment=None if words is None else {"word": spoken(words)},
    )
    return MonoCut(
        id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        supervisions=[supervision],
        recording=recording,
    )


def spoken(words: Words) -> list[AlignmentItem]:
    """Without the silences."""
    return [item for item in words if item.symbol]
