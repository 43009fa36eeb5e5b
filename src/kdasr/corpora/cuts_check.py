"""What manifests of Lhotse cuts hold, and what is wrong with them, before anything is computed."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lhotse import Recording
from lhotse.cut import Cut

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.corpora.audio_part import warn_of
from kdasr.corpora.base import Reading
from kdasr.corpora.cut_manifest import read_cuts
from kdasr.corpora.cut_utterances import (
    CutUtterance,
    count_overlaps,
    find_files,
    recordings_of,
    utterances_of,
)
from kdasr.corpora.shar import Shard, check_shard, find_shards, load_shard
from kdasr.data.audio_files import read_headers
from kdasr.data.audio_reading import AudioHeader
from kdasr.data.bad import BadUtterance
from kdasr.data.cut_check import TOLERANCE
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.fingerprint import fingerprint, fingerprints

log = get_logger(__name__)


@dataclass
class CutSource:
    """A manifest, or a shard with its audio."""

    shard: Shard
    listed: list[Cut] | None = None
    """The cuts of a manifest, once they were read."""

    def check(self) -> list[Cut]:
        """The cuts, without the audio of an archive."""
        if self.shard.audio is not None:
            return check_shard(self.shard)
        self.listed = read_cuts(self.shard.cuts)
        if not self.listed:
            raise UserError(f"{self.shard.cuts}: an empty manifest: 0 cuts")
        return self.listed

    def load(self) -> Iterator[Cut]:
        """The cuts with their audio."""
        if self.shard.audio is not None:
            return load_shard(self.shard)
        return iter(self.listed if self.listed is not None else self.check())


def sources_at(path: Path) -> list[CutSource]:
    """The manifest that a file is, or the shards of a folder; see `find_shards`."""
    return [CutSource(shard) for shard in (find_shards(path) if path.is_dir() else [Shard(path, None)])]


@dataclass(frozen=True)
class Checked:
    """What is known of the cuts of a part before their audio is read."""

    headers: dict[Path, AudioHeader]
    """Of the audio files that can be read."""
    kept: set[str]
    """Ids of the utterances that can be used."""
    shared: set[str]
    """Recordings with several utterances."""
    bad: list[BadUtterance]
    empty: list[str]
    """Utterances with an empty text, or no supervision at all."""
    untold: list[str]
    """Cuts without supervision."""
    fingerprint: str


class CutsCheck:
    """What is found in the manifests of a part."""

    def __init__(self, part: str, reading: Reading) -> None:
        self._part, self._reading = part, reading
        self._digest = hashlib.sha256()
        self._bad: list[BadUtterance] = []
        self._empty: list[str] = []
        self._untold: list[str] = []
        self._copies: list[str] = []
        self._rates: Counter[int] = Counter()
        self._trimmed = self._long = self._overlapping = 0
        self._places: dict[str, str] = {}
        self._repeated: dict[str, list[str]] = {}
        self._files: dict[str, list[tuple[Path, Recording]]] = {}
        """Of the utterances that may be used, each file with the recording that it is said to be."""
        self._recordings: Counter[str] = Counter()

    def add(self, source: CutSource) -> None:
        """Look at the cuts of a manifest or shard."""
        shard = source.shard
        self._digest.update(shard.cuts.read_bytes())
        if shard.audio is not None:
            self._digest.update(fingerprint(shard.audio))
        for cut in source.check():
            items = list(utterances_of(cut))
            if any(item.trimmed for item in items):
                self._trimmed += len(items)
                self._long += 1
                self._overlapping += count_overlaps(cut)
            for item in items:
                self._add_utterance(item, shard)

    def _add_utterance(self, item: CutUtterance, shard: Shard) -> None:
        cut, name = item.cut, item.cut.id
        if name in self._places:
            self._repeated.setdefault(name, [self._places[name]]).append(str(shard.cuts))
            return
        self._places[name] = str(shard.cuts)
        if item.fault is not None:
            self._bad.append(BadUtterance(name, str(shard.cuts), item.fault))
            return
        keep = self._reading.keep_empty
        if not cut.supervisions:
            self._untold.append(name)
        elif not item.text:
            self._empty.append(name)
        if not item.text and not keep:
            return
        files: list[Path] = []
        if shard.audio is None:
            files, fault = find_files(cut, shard.cuts.parent)
            if fault is not None:
                self._bad.append(BadUtterance(name, str(shard.cuts), fault))
                return
        recordings = recordings_of(cut)
        pairs = [(Path(src.source), rec) for rec in recordings for src in rec.sources if src.type == "file"]
        self._files[name] = pairs if files else []
        self._rates[cut.sampling_rate] += 1
        self._recordings.update({recording.id for recording in recordings})
        if any(recording.transforms and "Speed" in repr(recording.transforms) for recording in recordings):
            self._copies.append(name)

    def finish(self) -> Checked:
        """Look at the headers of the audio files, and say what was found.

        Raises:
            UserError: an id that is there twice, or nothing usable.
        """
        if self._repeated:
            first, places = next(iter(self._repeated.items()))
            where = places[0] if len(set(places)) == 1 else " and ".join(dict.fromkeys(places))
            raise UserError(
                f"{self._part}: {len(self._repeated)} id(s) are there more than once: '{first}' in {where}"
            )
        files = sorted({file for pairs in self._files.values() for file, _ in pairs})
        headers = dict(zip(files, read_headers(files, self._reading.jobs), strict=True))
        for audio_print in fingerprints(files, self._reading.jobs):
            self._digest.update(audio_print)
        kept = set()
        for name, pairs in self._files.items():
            fault = next(
                (found for pair in pairs if (found := _fault_in_file(*pair, headers[pair[0]]))), None
            )
            if fault is None:
                kept.add(name)
            else:
                self._bad.append(BadUtterance(name, str(pairs[0][0]), fault))
        self._log()
        if not self._files and not self._bad:
            raise UserError(
                f"{self._part}: no utterance with a transcript: {len(self._untold)} cuts without "
                f"supervision, {len(self._empty)} with an empty text"
            )
        return Checked(
            headers={file: header for file, header in headers.items() if not isinstance(header, str)},
            kept=kept,
            shared={name for name, count in self._recordings.items() if count > 1},
            bad=self._bad,
            empty=sorted(self._empty + self._untold),
            untold=sorted(self._untold),
            fingerprint=self._digest.hexdigest(),
        )

    def _log(self) -> None:
        part, what = self._part, "kept" if self._reading.keep_empty else "left out"
        rates = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(self._rates.items()))
        log.info("%s: %d utterance(s) in Lhotse cuts; %s", part, len(self._files), rates or "no audio")
        if len(self._rates) > 1:
            log.warning("%s: several sampling rates (%s); all become 16 kHz", part, rates)
        narrow = [rate for rate in self._rates if rate < SAMPLE_RATE]
        if narrow:
            count = sum(self._rates[rate] for rate in narrow)
            log.warning(
                "%s: %d utterance(s) are sampled below 16 kHz, so nothing is in their upper band", part, count
            )
        if self._long:
            log.info(
                "%s: %d cut(s) with several supervisions are trimmed to each: %d utterances",
                part, self._long, self._trimmed,
            )  # fmt: skip
        if self._overlapping:
            log.warning(
                "%s: %d supervision(s) overlap another one of their cut: two speak, one is written",
                part, self._overlapping,
            )  # fmt: skip
        warn_of(
            part,
            {
                f"cut(s) without supervision, {what}": self._untold,
                f"empty transcript(s), {what}": self._empty,
                "utterance(s) are copies at another speed already: give --speed 1, or they are perturbed "
                "twice": self._copies,
            },
        )


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
