"""Lhotse cuts of any recipe, in manifests and in Shar folders: `kdasr prepare --cuts PART=FILE_OR_FOLDER`."""

# Shapes: N samples, C channels.

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from lhotse import Recording
from lhotse.cut import Cut, MonoCut, MultiCut
from lhotse.utils import fastcopy
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.corpora.audio_part import sound_alignments, spoken
from kdasr.corpora.base import Location, PartCuts, Reading, register
from kdasr.corpora.conversion import Source, convert_quietly, needs_conversion
from kdasr.corpora.cut_utterances import CutUtterance, kept_custom, one_of, recordings_of, utterances_of
from kdasr.corpora.cuts_check import Checked, CutsCheck, CutSource, sources_at
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import read_audio
from kdasr.data.bad import BadUtterance
from kdasr.data.features import SAMPLE_RATE, load_cut_channels

log = get_logger(__name__)

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

    @property
    def num_utterances(self) -> int:
        """Those that can be used."""
        return len(self.found.kept)

    def ids(self) -> set[str]:
        """Of those that can be used."""
        return self.found.kept

    def notes(self) -> dict[str, Any]:
        """Where the cuts lie, and those without a supervision."""
        return {
            "cuts_from": [str(source.shard.cuts) for source in self.sources],
            "without_supervision": self.found.untold,
        }

    def cuts(self, converted_dir: Path, jobs: int) -> PartCuts:
        """One cut per utterance, sorted by id. See `Part.cuts`."""
        cuts: list[MonoCut] = []
        bad: list[BadUtterance] = []
        canceled: list[str] = []
        converted = 0
        used = self._used()
        while some := list(islice(used, _AT_ONCE)):
            odd = [item.cut for item in some if not self._is_plain(item.cut)]
            converted += len(odd)
            sources = [self._source(cut) for cut in odd]
            found = convert_quietly(sources, converted_dir, jobs, canceled) if sources else []
            made = {cut.id: recording for cut, recording in zip(odd, found, strict=True)}
            for item in some:
                recording = made.get(item.cut.id)
                if isinstance(recording, BadUtterance):
                    bad.append(recording)
                else:
                    cuts.append(self._written(item, recording))
        if converted:
            log.info("%s: converted %d utterance(s) to 16 kHz mono", self.name, converted)
        if canceled:
            log.warning("%s: %d file(s) are not mixed: %s", self.name, len(canceled), quote(sorted(canceled)))
        cuts.sort(key=lambda cut: cut.id)
        return PartCuts(self._with_word_times(cuts), bad)

    def _used(self) -> Iterator[CutUtterance]:
        for source in self.sources:
            for cut in source.load():
                for item in utterances_of(cut):
                    if item.cut.id in self.found.kept and item.fault is None:
                        yield item

    def _is_plain(self, cut: Cut) -> bool:
        """Whether the audio can be read where it is."""
        if not isinstance(cut, MonoCut) or len(cut.recording.sources) != 1:
            return False
        source = cut.recording.sources[0]
        header = self.found.headers.get(Path(source.source)) if source.type == "file" else None
        return (
            header is not None and not needs_conversion(header) and cut.recording.sampling_rate == SAMPLE_RATE
        )

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
        if origin in self.found.shared and "chapter" not in custom:
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

    def _with_word_times(self, cuts: list[MonoCut]) -> list[MonoCut]:
        """The cuts, with the word times that can be true alone, and without silences."""
        aligned = {}
        for cut in cuts:
            words = (cut.supervisions[0].alignment or {}).get("word")
            if words:
                aligned[cut.id] = words
        texts = {cut.id: cut.supervisions[0].text or "" for cut in cuts}
        sound = sound_alignments(self.name, aligned, texts, {cut.id: cut.duration for cut in cuts})
        for cut in cuts:
            words = sound.get(cut.id)
            cut.supervisions[0].alignment = None if words is None else {"word": spoken(words)}
        return cuts


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
