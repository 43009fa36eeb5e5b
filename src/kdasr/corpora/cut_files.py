"""The audio files of Lhotse cuts: whether each is the recording that its cut says it is, some at a time."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lhotse import Recording
from lhotse.cut import Cut, MonoCut

from kdasr.common.external_sort import ExternalSort
from kdasr.common.name_digests import name_digest
from kdasr.corpora.conversion import needs_conversion
from kdasr.corpora.cut_utterances import recordings_of
from kdasr.data.audio_files import read_headers
from kdasr.data.audio_reading import AudioHeader
from kdasr.data.bad import BadUtterance
from kdasr.data.cut_check import TOLERANCE
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.fingerprint import fingerprints

_AT_ONCE = 1024
"""Utterances whose files are looked at together."""
_REMEMBERED = 4096
"""Files whose header is remembered, for other utterances of the same file."""


class SoundUtterance(NamedTuple):
    """An utterance whose files can be used."""

    digest: int
    """`name_digest` of its id."""
    is_plain: bool
    """Whether its audio can be read where it is."""


class _Waiting(NamedTuple):
    name: str
    files: list[tuple[Path, Recording]]
    """Each with the recording that it is said to be."""
    is_single: bool
    """It is of one channel of one file, at 16 kHz as it says."""


class FileCheck:
    """Looks at the files of utterances that come one after another."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._waiting: list[_Waiting] = []
        self._headers: OrderedDict[Path, AudioHeader | str] = OrderedDict()
        self._prints = ExternalSort()

    @property
    def is_full(self) -> bool:
        """Whether it is time to `take`."""
        return len(self._waiting) >= _AT_ONCE

    def add(self, cut: Cut, *, in_archive: bool) -> None:
        """Add an utterance. Audio in an archive was looked at already."""
        recordings = recordings_of(cut)
        sources = [(source, recording) for recording in recordings for source in recording.sources]
        files = [(Path(source.source), rec) for source, rec in sources if source.type == "file"]
        is_single = (
            isinstance(cut, MonoCut)
            and [source.type for source, _ in sources] == ["file"]
            and cut.recording.sampling_rate == SAMPLE_RATE
        )
        self._waiting.append(_Waiting(cut.id, [] if in_archive else files, is_single))

    def take(self) -> Iterator[SoundUtterance | BadUtterance]:
        """What is found of those that were added, in their order."""
        waiting, self._waiting = self._waiting, []
        self._look(file for item in waiting for file, _ in item.files)
        for item in waiting:
            headers = [self._headers[file] for file, _ in item.files]
            pairs = zip(item.files, headers, strict=True)
            fault = next((found for pair, header in pairs if (found := _fault_in_file(*pair, header))), None)
            if fault is not None:
                yield BadUtterance(item.name, str(item.files[0][0]), fault)
                continue
            header = headers[0] if headers else ""
            is_plain = item.is_single and not isinstance(header, str) and not needs_conversion(header)
            yield SoundUtterance(name_digest(item.name), is_plain)
        while len(self._headers) > _REMEMBERED:
            self._headers.popitem(last=False)

    def _look(self, files: Iterator[Path]) -> None:
        new = [file for file in dict.fromkeys(files) if file not in self._headers]
        for file, header in zip(new, read_headers(new, self._jobs), strict=True):
            self._headers[file] = header
        for file, found in zip(new, fingerprints(new, self._jobs), strict=True):
            # In the order of paths, which is that of their parts.
            self._prints.add(b"\0".join(map(os.fsencode, file.parts)), found)

    def prints(self) -> Iterator[tuple[bytes, bytes]]:
        """The fingerprint of each file, once, in the order of their paths."""
        before = None
        for key, found in self._prints:
            if key != before:
                assert isinstance(found, bytes)
                yield key, found
            before = key


def _fault_in_file(path: Path, recording: Recording, header: AudioHeader | str) -> str | None:
    """Why a file is not the recording that a manifest says it is."""
    if isinstance(header, str):
        return header
    if recording.transforms or not header.is_plain:
        return None  # its rate and length are not those of the file, or it does not say them exactly
    if header.sample_rate != recording.sampling_rate:
        return f"the manifest says {recording.sampling_rate} Hz, the file has {header.sample_rate}"
    if header.num_samples < recording.num_samples - TOLERANCE * header.sample_rate:
        return f"the manifest says {recording.num_samples} samples, the file has {header.num_samples}"
    return None
