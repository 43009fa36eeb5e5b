"""The utterances of Lhotse cuts: one per supervision, and whether what a cut says of itself can be true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut, MonoCut, MultiCut
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy

from kdasr.data.cut_check import TOLERANCE, fault_in_cut, fault_of_id

OVERLAP = 0.05
"""Seconds that two supervisions of a cut may share: times are rounded."""
_NOT_KEPT = ("speed", "shard_origin", "shar_epoch")
"""Custom fields that mean something else here, or that Lhotse's reader of shards adds."""


class CutUtterance(NamedTuple):
    """A stretch of audio and what is said in it."""

    cut: Cut
    """With one supervision at most; its id is that of the utterance, the supervision's where it has one."""
    trimmed: bool
    """It is one of several of a longer cut."""
    fault: str | None
    """Why it cannot be used."""
    words: list[AlignmentItem] | None = None
    """Its word times, from the begin of `cut`."""
    narrowed: bool = False
    """Its supervision names some of the channels, and is heard on these alone."""

    @property
    def text(self) -> str:
        """The transcript; empty without a supervision."""
        return (self.cut.supervisions[0].text or "").strip() if self.cut.supervisions else ""


def utterances_of(cut: Cut) -> Iterator[CutUtterance]:
    """A cut with one supervision as it is, one with several trimmed to each of them.

    Of several channels those are heard that the supervision names.

    Stored features are left out: others than ours would be of another front end.
    """
    fault = fault_in_any(cut)
    if fault is not None:
        named = cut if isinstance(cut.id, str) else fastcopy(cut, id=repr(cut.id))
        yield CutUtterance(named, False, fault)
        return
    if cut.has_features:
        cut = cut.drop_features()
    supervisions = cut.supervisions
    if len(supervisions) < 2:
        words = words_of(supervisions[0], cut) if supervisions else None
        yield _heard(cut, False, words)
        return
    for supervision in supervisions:
        fault = _fault_in_place(supervision, cut)
        if fault is not None:
            yield CutUtterance(_alone(cut, supervision), True, fault)
    sound = [item for item in supervisions if _fault_in_place(item, cut) is None]
    if sound:
        # Lhotse would also give a cut of one channel, behind its padding, the channel of its supervision.
        pieces = _with_sound(cut, cut).trim_to_supervisions(keep_overlapping=False, keep_all_channels=True)
        for supervision, piece in zip(sound, pieces, strict=True):
            words = words_of(supervision, cut)
            yield _heard(piece, True, _moved(words, -max(0.0, supervision.start)))


def words_of(supervision: SupervisionSegment, cut: Cut) -> list[AlignmentItem] | None:
    """The word times of a supervision, from the begin of its cut; None if it has none.

    Lhotse leaves the times of an alignment as they are when it trims a cut, or makes it a track of a mixture:
    they may count from the begin of the recording, or of the track. Of all readings the one is taken that is
    closest to the times of the supervision.
    """
    words = (supervision.alignment or {}).get("word")
    if not words:
        return None

    def distance(offset: float) -> float:
        begin, end = words[0].start + offset, words[-1].start + words[-1].duration + offset
        return abs(begin - supervision.start) + abs(end - supervision.end)

    return _moved(words, min(_origins(supervision, cut), key=distance))


def _origins(supervision: SupervisionSegment, cut: Cut) -> list[float]:
    """Seconds of a cut from which the word times of one of its supervisions may count."""
    if not isinstance(cut, MixedCut):
        return [0.0, -cut.start]
    begins = [
        begin
        for track in cut.tracks
        if any(item.id == supervision.id for item in track.cut.supervisions)
        for begin in (track.offset, track.offset - track.cut.start)
    ]
    return [*begins, 0.0]


def _moved(words: list[AlignmentItem] | None, offset: float) -> list[AlignmentItem] | None:
    if words is None or not offset:
        return words
    return [item._replace(start=round(item.start + offset, 8)) for item in words]


def fault_in_any(cut: Cut) -> str | None:
    """What of a cut of any kind cannot be true; None if all can."""
    if fault := fault_of_id(cut.id):
        return fault
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    try:
        for part in parts:
            fault = fault_in_cut(part) if isinstance(part, MonoCut | MultiCut) else None
            if fault is not None:
                return fault
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        return f"is not one ({error})"
    return None


def count_overlaps(cut: Cut) -> int:
    """How many supervisions of a cut begin before one on the same channel has ended."""
    ends: dict[str, float] = {}
    count = 0
    for supervision in sorted(cut.supervisions, key=lambda item: item.start):
        channel = repr(supervision.channel)
        count += supervision.start < ends.get(channel, 0.0) - OVERLAP
        ends[channel] = max(ends.get(channel, 0.0), supervision.end)
    return count


def recordings_of(cut: Cut) -> list[Recording]:
    """The recordings that a cut of any kind is of."""
    parts = [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]
    recordings = [getattr(part, "recording", None) for part in parts]  # padding has none
    return [recording for recording in recordings if recording is not None]


def find_files(cut: Cut, beside: Path) -> tuple[list[Path], str | None]:
    """Where the audio files of a cut are looked for, and what is wrong with its sources.

    A relative path holds from the current directory, as in Lhotse; else from the folder of the manifest. The
    cut is changed to say so.
    """
    files: list[Path] = []
    for recording in recordings_of(cut):
        for source in recording.sources:
            if source.type == "url":
                return files, "its audio is at a URL, which is not fetched here: download it"
            if source.type == "shar":
                return files, "its audio is in a Shar archive: name the folder, not the manifest in it"
            if source.type != "file":
                continue
            path = Path(source.source)
            files.append(path)
            if not path.is_file():
                files.append(beside / path)
                if (beside / path).is_file():
                    path = beside / path
            source.source = str(path.resolve()) if path.is_file() else str(path)
    return files, None


def kept_custom(cut: Cut) -> dict[str, Any]:
    """The custom fields of a cut that are plain values."""
    custom = getattr(cut, "custom", None) or {}
    return {key: value for key, value in custom.items() if key not in _NOT_KEPT and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def _heard(cut: Cut, trimmed: bool, words: list[AlignmentItem] | None) -> CutUtterance:
    """The utterance of a cut with one supervision at most, on the channels of that.

    What a cut of one channel hears does not depend on what its supervision says of channels.
    """
    named = cut.supervisions[0].channel if cut.supervisions else None
    own = cut if named is None else _on_channels(cut, named if isinstance(named, list) else [named])
    return CutUtterance(_named(own), trimmed, None, words, own is not cut)


def _on_channels(cut: Cut, named: list[int]) -> Cut:
    """A cut with those of its channels that are among some, if it has several; of a mixture, each track."""
    if isinstance(cut, MixedCut):
        cuts = [_on_channels(track.cut, named) for track in cut.tracks]
        if all(new is track.cut for new, track in zip(cuts, cut.tracks, strict=True)):
            return cut
        tracks = [fastcopy(track, cut=new) for new, track in zip(cuts, cut.tracks, strict=True)]
        return fastcopy(cut, tracks=tracks)
    if not isinstance(cut, MultiCut):
        return cut
    own = [channel for channel in cut.channel if channel in named]
    return cut.with_channels(own) if 0 < len(own) < len(cut.channel) else cut


def _named(cut: Cut) -> Cut:
    return cut.with_id(cut.supervisions[0].id) if cut.supervisions else cut


def _alone(cut: Cut, supervision: SupervisionSegment) -> Cut:
    return _named(cut.filter_supervisions(lambda item: item is supervision or item.id == supervision.id))


def _fault_in_place(supervision: SupervisionSegment, cut: Cut) -> str | None:
    if not supervision.duration > 0:
        return f"its supervision lasts {supervision.duration:g} s"
    is_inside = supervision.start < cut.duration and supervision.end > 0
    if not is_inside or supervision.start < -TOLERANCE or supervision.end > cut.duration + TOLERANCE:
        return (
            f"its supervision is at {supervision.start:.2f} to {supervision.end:.2f} s, the cut has "
            f"{cut.duration:.2f} s"
        )
    return None


def _with_sound(cut: Cut, whole: Cut, offset: float = 0.0) -> Cut:
    """A cut, or what a track of it is of, with those supervisions alone that lie within the whole cut.

    Times are rounded, and Lhotse does not trim to what goes beyond a cut: such supervisions end with it.
    `offset`: seconds of the whole at which `cut` begins.
    """
    if isinstance(cut, MixedCut):
        tracks = [
            fastcopy(track, cut=_with_sound(track.cut, whole, offset + track.offset)) for track in cut.tracks
        ]
        return fastcopy(cut, tracks=tracks)
    if not cut.supervisions:  # padding can have none
        return cut
    kept = [item for item in cut.supervisions if _fault_in_place(item.with_offset(offset), whole) is None]
    return fastcopy(cut, supervisions=[_clipped(item, -offset, whole.duration - offset) for item in kept])


def _clipped(supervision: SupervisionSegment, begin: float, end: float) -> SupervisionSegment:
    if begin <= supervision.start and supervision.end <= end:
        return supervision
    start = max(supervision.start, begin)
    return fastcopy(supervision, start=start, duration=min(supervision.end, end) - start)


def one_of(cut: MonoCut, words: list | None, custom: dict[str, Any]) -> MonoCut:
    """A cut of an utterance as `kdasr prepare` writes it: one supervision, and these word times."""
    if cut.supervisions:
        alignment = None if words is None else {"word": words}
        told = cut.supervisions[0]
        speaker = None if told.speaker is None else str(told.speaker)  # some corpora number them
        supervision = fastcopy(told, text=(told.text or "").strip(), speaker=speaker, alignment=alignment)
    else:
        supervision = SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text="")
    return fastcopy(cut, supervisions=[supervision], custom=custom or None)
