"""Lhotse cuts of any recipe, in manifests and in Shar folders: `kdasr prepare --cuts PART=FILE_OR_FOLDER`."""

# Shapes: N samples, C channels.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from lhotse import Recording
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.utils import fastcopy
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.corpora.audio_part import sound_alignments, spoken
from kdasr.corpora.base import Location, PartCuts, Reading, register
from kdasr.corpora.conversion import LOW_RATE, Source, convert_all
from kdasr.corpora.cut_utterances import CutUtterance, kept_custom, one_of, recordings_of, utterances_of
from kdasr.corpora.cuts_check import Checked, CutsCheck, CutSource, sources_at
from kdasr.corpora.remarks import Remarks
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import read_audio
from kdasr.data.bad import BadUtterance
from kdasr.data.features import load_cut_channels

log = get_logger(__name__)

_LOST_BEGIN = (
    "utterance(s) of a Shar folder have words outside of their cut. Of cuts that were trimmed it does not "
    "keep where they began, so words of others may be late too: use the manifest that it was made of"
)
_AT_ONCE = 256
"""Utterances whose audio is in memory together, where it comes from an archive."""


@register
class LhotseCuts:
    """Manifests and Shar folders, some for each part."""

    name: ClassVar[str] = "cuts"

    def __init__(self, places: Mapping[str, Sequence[Path]]) -> None:
        """`places` are the manifests and folders of each part."""
        self._places = {part: [path.resolve() for path in paths] for part, paths in places.items()}

    @staticmethod
    def takes(location: Location) -> bool:
        """Wherever there are cuts."""
        return bool(location.cuts)

    @classmethod
    def open(cls, location: Location, parts: Sequence[str]) -> "LhotseCuts":
        """
        Raises:
            UserError: no cuts, no such part, or a place where nothing is.
        """
        if not location.cuts:
            raise UserError("--corpus cuts: give --cuts PART=FILE_OR_FOLDER, once or more")
        for name in parts:
            if name not in location.cuts:
                raise UserError(f"--parts: no --cuts {name}=...; there are: {', '.join(location.cuts)}")
        chosen = {name: location.cuts[name] for name in parts or location.cuts}
        for name, paths in chosen.items():
            for path in paths:
                if not path.exists():
                    raise UserError(f"--cuts {name}={path}: no such file or folder")
        return cls(chosen)

    def parts(self) -> list[str]:
        """Those that cuts were given for."""
        return list(self._places)

    def settings(self) -> dict[str, Any]:
        """The kind; where the cuts lie is in the record of each part, and may change."""
        return {"corpus": self.name}

    def check(self, part: str, reading: Reading) -> "CutPart":
        """Read the manifests of a part and the headers of its audio files.

        Raises:
            UserError: a file that is no manifest of cuts, an empty or incomplete shard, an id that is there
                twice, or no utterance at all.
        """
        sources = [source for path in self._places[part] for source in sources_at(path)]
        check = CutsCheck(part, reading)
        faults: list[UserError] = []
        for source in sources:
            try:
                check.add(source)
            except UserError as error:
                faults.append(error)
        if len(faults) > 1:
            raise UserError(
                f"{part}: {len(faults)} of {len(sources)} manifests or shards cannot be used: {quote(faults)}"
            )
        if faults:
            raise faults[0]
        found = check.finish()
        return CutPart(part, found.bad, found.empty, found.fingerprint, sources, found)


@dataclass
class CutPart:
    """The utterances of some cuts that can be used: a `Part`."""

    name: str
    bad: list[BadUtterance]
    empty: list[str]
    fingerprint: str
    sources: list[CutSource]
    found: Checked
    by_id: bool = True
    _place: "_Place | None" = None

    @property
    def num_utterances(self) -> int:
        """Those that can be used."""
        return len(self.found.digests_N)

    def ids(self) -> Iterator[str]:
        """Of those that can be used; the manifests are read again."""
        for source in self.sources:
            for cut in source.check():
                for item in utterances_of(cut):
                    if self.found.place(item.cut.id) is not None:
                        yield item.cut.id

    def digests(self) -> NDArray[np.int64]:
        """Of those that can be used."""
        return self.found.digests_N

    def notes(self) -> dict[str, Any]:
        """Where the cuts lie, and those without a supervision."""
        return {
            "cuts_from": [str(source.shard.cuts) for source in self.sources],
            "without_supervision": self.found.untold,
        }

    def cuts(self, some: range, converted_dir: Path, jobs: int) -> Iterator[PartCuts]:
        """See `Part.cuts`. Goes on in the manifests where the call before has ended, or in front of it."""
        used = self._used(some)
        while items := list(islice(used, _AT_ONCE)):
            cuts: list[MonoCut] = []
            bad = [BadUtterance(item.cut.id, place, item.fault) for item, _, place in items if item.fault]
            remarks = Remarks()
            odd = [item.cut for item, is_plain, _ in items if not is_plain and item.fault is None]
            found = convert_all([self._source(cut) for cut in odd], converted_dir, jobs, remarks)
            # How many are sampled below 16 kHz was said when the manifests were checked.
            remarks.faults.pop(LOW_RATE, None)
            made = {cut.id: recording for cut, recording in zip(odd, found, strict=True)}
            for item, _, _ in items:
                recording = made.get(item.cut.id)
                if isinstance(recording, BadUtterance):
                    bad.append(recording)
                elif item.fault is None:
                    cuts.append(self._written(item, recording))
            yield PartCuts(self._with_word_times(cuts, remarks), bad, remarks)

    def _used(self, some: range) -> Iterator["_Used"]:
        """The utterances with the numbers `some`."""
        place = self._place
        source = int(np.searchsorted(np.cumsum(self.found.of_sources), some.start, side="right"))
        if place is None or place.number > some.start or place.source < source:
            first = sum(self.found.of_sources[:source])
            place = self._place = _Place(self._from(source), source, first)
        while place.number < some.stop:
            used = place.waiting or next(place.items, None)
            place.waiting = None
            if used is None:
                return
            number, place.source, found = used
            if number >= some.stop:
                place.waiting, place.number = used, number
                return
            place.number = number + 1
            if number >= some.start:
                yield found

    def _from(self, first: int) -> Iterator[tuple[int, int, "_Used"]]:
        """The usable utterances from a source on, each with its number and that of its source."""
        known = {utterance.id for utterance in self.bad}
        for number, source in enumerate(self.sources[first:], start=first):
            for cut in source.load():
                for item in utterances_of(cut):
                    place = self.found.place(item.cut.id)
                    if place is None and item.fault is not None and item.cut.id not in known:
                        log.warning("%s: '%s' is left out: %s", source.shard.cuts, item.cut.id, item.fault)
                    if place is not None:
                        is_plain = bool(self.found.plain_N[place])
                        used = _Used(item, is_plain, str(source.shard.cuts))
                        yield int(self.found.numbers_N[place]), number, used

    def _source(self, cut: Cut) -> Source:
        recordings = recordings_of(cut)
        files = [source.source for item in recordings for source in item.sources if source.type == "file"]
        read = partial(read_audio, Path(files[0])) if _is_whole_file(cut) else partial(_load, cut)
        return Source(cut.id, files[0] if files else cut.id, cut.sampling_rate, read)

    def _written(self, item: CutUtterance, converted: Recording | None) -> MonoCut:
        """The cut of an utterance, of its converted recording if it has one."""
        custom = kept_custom(item.cut)
        if converted is None:
            return one_of(item.cut, item.words, custom)
        origin = recordings_of(item.cut)[0].id
        if self.found.is_shared(origin) and "chapter" not in custom:
            custom |= {"chapter": origin, "position": getattr(item.cut, "start", 0.0)}
        supervisions = [
            fastcopy(
                supervision,
                recording_id=converted.id,
                channel=0,
                start=max(0.0, supervision.start),
                duration=min(supervision.duration, converted.duration),
            )
            for supervision in item.cut.supervisions
        ]
        cut = MonoCut(item.cut.id, 0.0, converted.duration, 0, supervisions=supervisions, recording=converted)
        return one_of(cut, item.words, custom)

    def _with_word_times(self, cuts: list[MonoCut], remarks: Remarks) -> list[MonoCut]:
        """The cuts, with the word times that can be true alone, and without silences."""
        aligned = {}
        for cut in cuts:
            words = (cut.supervisions[0].alignment or {}).get("word")
            if words:
                aligned[cut.id] = words
        texts = {cut.id: cut.supervisions[0].text or "" for cut in cuts}
        sound = sound_alignments(aligned, texts, {cut.id: cut.duration for cut in cuts}, remarks)
        if any(source.shard.audio is not None for source in self.sources):
            remarks.fault(_LOST_BEGIN, [name for name in aligned if name not in sound])
        for cut in cuts:
            words = sound.get(cut.id)
            cut.supervisions[0].alignment = None if words is None else {"word": spoken(words)}
        return cuts


class _Used(NamedTuple):
    """A usable utterance as it was loaded."""

    item: CutUtterance
    is_plain: bool
    """Its audio can be read where it is."""
    place: str
    """The manifest that has it."""


@dataclass
class _Place:
    """How far the manifests have been read."""

    items: Iterator[tuple[int, int, _Used]]
    source: int
    number: int
    """Of the next utterance."""
    waiting: tuple[int, int, _Used] | None = None
    """The next utterance, where it was read already."""


def _is_whole_file(cut: Cut) -> bool:
    """Whether a cut is all samples and channels of one file, as they are."""
    recordings = recordings_of(cut)
    if not isinstance(cut, MonoCut | MultiCut) or len(recordings) != 1 or recordings[0].transforms:
        return False
    recording = recordings[0]
    if [source.type for source in recording.sources] != ["file"]:
        return False
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    return (
        cut.start == 0
        and abs(cut.duration - recording.duration) < 1 / recording.sampling_rate
        and sorted(channels) == sorted(recording.channel_ids or recording.sources[0].channels)
    )


def _load(cut: Cut) -> tuple[NDArray[np.float32], int]:
    return load_cut_channels(cut), cut.sampling_rate
