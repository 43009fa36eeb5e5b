"""What manifests of Lhotse cuts hold, and what is wrong with them, before anything is computed."""

# Shapes: N utterances.

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse.cut import Cut, MonoCut, MultiCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.name_digests import name_digest, place_of
from kdasr.corpora.audio_part import warn_of
from kdasr.corpora.base import Reading, place_by_fields
from kdasr.corpora.cut_files import FileCheck
from kdasr.corpora.cut_manifest import iter_cuts
from kdasr.corpora.cut_utterances import (
    CutUtterance,
    count_overlaps,
    find_files,
    recordings_of,
    utterances_of,
)
from kdasr.corpora.shar import Shard, check_shard, find_shards, load_shard
from kdasr.data.bad import BadUtterance
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.fingerprint import fingerprint

log = get_logger(__name__)

_UNTOLD_SECONDS = 2.0
"""So much of a cut may be outside its only supervision, however short that is."""
_BLOCK = 1 << 20
"""Bytes of a manifest that are read at a time for its digest."""


@dataclass(frozen=True)
class CutSource:
    """A manifest, or a shard with its audio."""

    shard: Shard

    def check(self) -> Iterator[Cut]:
        """The cuts, without the audio of an archive. Those of a shard are in memory together."""
        if self.shard.audio is not None:
            yield from check_shard(self.shard)
            return
        count = 0
        for count, cut in enumerate(iter_cuts(self.shard.cuts), start=1):  # noqa: B007
            yield cut
        if not count:
            raise UserError(f"{self.shard.cuts}: an empty manifest: 0 cuts")

    def load(self) -> Iterator[Cut]:
        """The cuts with their audio, and with paths that hold from the current directory."""
        if self.shard.audio is not None:
            yield from load_shard(self.shard)
            return
        for cut in iter_cuts(self.shard.cuts):
            find_files(cut, self.shard.cuts.parent)
            yield cut


def sources_at(path: Path) -> list[CutSource]:
    """The manifest that a file is, or the shards of a folder; see `find_shards`."""
    return [CutSource(shard) for shard in (find_shards(path) if path.is_dir() else [Shard(path, None)])]


@dataclass(frozen=True)
class Checked:
    """What is known of the cuts of a part before their audio is read: a few bytes of each."""

    digests_N: NDArray[np.int64]
    """`name_digest` of the utterances that can be used, sorted."""
    numbers_N: NDArray[np.int32]
    """The number of each, in the order of the cuts."""
    plain_N: NDArray[np.bool_]
    """Whether its audio can be read where it is."""
    of_sources: list[int]
    """How many each source has."""
    shared: NDArray[np.int64]
    """`name_digest` of the recordings with several utterances, sorted."""
    bad: list[BadUtterance]
    empty: list[str]
    """Utterances with an empty text, or no supervision at all."""
    untold: list[str]
    """Cuts without supervision."""
    fingerprint: str

    def place(self, name: str) -> int | None:
        """Where an utterance stands in the arrays; None if it cannot be used."""
        return place_of(self.digests_N, name)

    def is_shared(self, recording: str) -> bool:
        """Whether a recording has several utterances."""
        return place_of(self.shared, recording) is not None


class CutsCheck:
    """What is found in the manifests of a part. Keeps a few bytes of each utterance."""

    def __init__(self, part: str, reading: Reading) -> None:
        self._part, self._reading = part, reading
        self._digest = hashlib.sha256()
        self._sources: list[CutSource] = []
        self._bad: list[BadUtterance] = []
        self._empty: list[str] = []
        self._untold: list[str] = []
        self._copies: list[str] = []
        self._loose: list[str] = []
        self._rates: Counter[int] = Counter()
        self._trimmed = self._long = self._overlapping = self._listed = self._narrowed = 0
        self._seen = array("q")
        """`name_digest` of all utterances, whether they can be used or not."""
        self._used, self._plain, self._of_sources = array("q"), bytearray(), list[int]()
        self._recordings = array("q")
        self._files = FileCheck(reading.jobs)

    def add(self, source: CutSource) -> None:
        """Look at the cuts of a manifest or shard.

        Raises:
            UserError: it cannot be read, is empty, or says of a cut what cannot be used.
        """
        shard, before = source.shard, len(self._used)
        self._sources.append(source)
        with shard.cuts.open("rb") as file:
            while block := file.read(_BLOCK):
                self._digest.update(block)
        if shard.audio is not None:
            self._digest.update(fingerprint(shard.audio))
        for cut in source.check():
            items = list(utterances_of(cut))
            self._narrowed += sum(item.narrowed for item in items)
            if any(item.trimmed for item in items):
                self._trimmed += len(items)
                self._long += 1
                self._overlapping += count_overlaps(cut)
            elif _is_mostly_untold(items[0]):
                self._loose.append(items[0].cut.id)
            for item in items:
                self._add_utterance(item, shard)
        self._look_at_files()
        self._of_sources.append(len(self._used) - before)

    def _add_utterance(self, item: CutUtterance, shard: Shard) -> None:
        cut, name = item.cut, item.cut.id
        self._seen.append(name_digest(name))
        place_by_fields(cut)  # refuses a position that is none
        if item.fault is not None:
            self._bad.append(BadUtterance(name, str(shard.cuts), item.fault))
            return
        if not cut.supervisions:
            self._untold.append(name)
        elif not item.text:
            self._empty.append(name)
        if not item.text and not self._reading.keep_empty:
            return
        if shard.audio is None:
            files, fault = find_files(cut, shard.cuts.parent)
            for file in files:
                self._reading.watch(file)
            if fault is not None:
                self._bad.append(BadUtterance(name, str(shard.cuts), fault))
                return
        recordings = recordings_of(cut)
        self._listed += 1
        self._rates[cut.sampling_rate] += 1
        self._recordings.extend({name_digest(recording.id) for recording in recordings})
        if any(recording.transforms and "Speed" in repr(recording.transforms) for recording in recordings):
            self._copies.append(name)
        self._files.add(cut, in_archive=shard.audio is not None)
        if self._files.is_full:
            self._look_at_files()

    def _look_at_files(self) -> None:
        for found in self._files.take():
            if isinstance(found, BadUtterance):
                self._bad.append(found)
            else:
                self._used.append(found.digest)
                self._plain.append(found.is_plain)

    def finish(self) -> Checked:
        """Say what was found.

        Raises:
            UserError: an id that is there twice, or nothing usable.
        """
        self._check_repeated()
        for _, audio_print in self._files.prints():
            self._digest.update(audio_print)
        self._log()
        if not self._listed and not self._bad:
            raise UserError(
                f"{self._part}: no utterance with a transcript: {len(self._untold)} cuts without "
                f"supervision, {len(self._empty)} with an empty text"
            )
        used_N = np.array(self._used, np.int64)
        order_N = np.argsort(used_N, kind="stable").astype(np.int32)
        return Checked(
            digests_N=used_N[order_N],
            numbers_N=order_N,
            plain_N=np.frombuffer(self._plain, np.bool_)[order_N],
            of_sources=self._of_sources,
            shared=_repeated(self._recordings),
            bad=self._bad,
            empty=sorted(self._empty + self._untold),
            untold=sorted(self._untold),
            fingerprint=self._digest.hexdigest(),
        )

    def _check_repeated(self) -> None:
        """Refuse ids that are there more than once. Their names are read again to say which."""
        repeated = _repeated(self._seen)
        if not len(repeated):
            return
        seen_N = np.array(self._seen, np.int64)
        order_N = np.argsort(seen_N, kind="stable")
        again_N = order_N[1:][seen_N[order_N[1:]] == seen_N[order_N[:-1]]]
        first = int(seen_N[again_N.min()])
        places = [
            (item.cut.id, str(source.shard.cuts))
            for source in self._sources
            for cut in source.check()
            for item in utterances_of(cut)
            if name_digest(item.cut.id) == first
        ]
        where = " and ".join(dict.fromkeys(place for _, place in places))
        raise UserError(
            f"{self._part}: {len(repeated)} id(s) are there more than once: '{places[0][0]}' in {where}"
        )

    def _log(self) -> None:
        part = self._part
        rates = ", ".join(f"{rate} Hz: {count}" for rate, count in sorted(self._rates.items()))
        log.info("%s: %d utterance(s) in Lhotse cuts; %s", part, self._listed, rates or "no audio")
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
        if self._narrowed:
            log.info(
                "%s: %d utterance(s) of cuts of several channels are heard on those of their supervision",
                part, self._narrowed,
            )  # fmt: skip
        if self._overlapping:
            log.warning(
                "%s: %d supervision(s) overlap another one of their cut: two speak, one is written",
                part, self._overlapping,
            )  # fmt: skip
        warn_of(
            part,
            {
                **self._reading.faults_of_text(
                    {
                        "cut(s) without supervision, {}": self._untold,
                        "empty transcript(s), {}": self._empty,
                        "supervision(s) cover less than half of their cut, all of which is used; to use them "
                        "alone: `lhotse cut trim-to-supervisions`": self._loose,
                    }
                ),
                "utterance(s) are copies at another speed already: give --speed 1, or they are perturbed "
                "twice": self._copies,
            },
        )


def _is_mostly_untold(item: CutUtterance) -> bool:
    """Whether the only supervision of a cut covers less than half of it. Padding does not count."""
    cut = item.cut
    if item.fault is not None or not item.text or not isinstance(cut, MonoCut | MultiCut):
        return False
    seconds = cut.supervisions[0].duration
    return cut.duration - seconds > max(seconds, _UNTOLD_SECONDS)


def _repeated(digests: "array[int]") -> NDArray[np.int64]:
    """Those that are there more than once, sorted."""
    values_N = np.sort(np.frombuffer(digests, np.int64)) if digests else np.zeros(0, np.int64)
    return np.unique(values_N[1:][values_N[1:] == values_N[:-1]])
