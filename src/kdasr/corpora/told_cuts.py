"""The utterances of Lhotse cuts: one per supervision, and whether what a cut says of itself can be true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut, MixedCut, MonoCut, MultiCut
from lhotse.utils import fastcopy

from kdasr.data.cut_check import TOLERANCE, fault_in_cut

OVERLAP = 0.05
"""Seconds that two supervisions of a cut may share: times are rounded."""
_NOT_KEPT = ("speed", "shard_origin", "shar_epoch")
"""Custom fields that mean something else here, or that Lhotse's reader of shards adds."""


class ToldUtterance(NamedTuple):
    """A stretch of audio and what is said in it."""

    cut: Cut
    """With one supervision at most; its id is that of the utterance, the supervision's where it has one."""
    trimmed: bool
    """It is one of several of a longer cut."""
    fault: str | None
    """Why it cannot be used."""

    @property
    def text(self) -> str:
        """The transcript; empty without a supervision."""
        return (self.cut.supervisions[0].text or "").strip() if self.cut.supervisions else ""


def utterances_of(cut: Cut) -> Iterator[ToldUtterance]:
    """A cut with one supervision as it is, one with several trimmed to each of them.

    Stored features are left out: others than ours would be of another front end.
    """
    fault = fault_in_any(cut)
    if fault is not None:
        yield ToldUtterance(cut, False, fault)
        return
    if cut.has_features:
        cut = cut.drop_features()
    supervisions = cut.supervisions
    if len(supervisions) < 2:
        yield ToldUtterance(_named(cut), False, None)
        return
    for supervision in supervisions:
        fault = _fault_in_place(supervision, cut)
        if fault is not None:
            yield ToldUtterance(_alone(cut, supervision), True, fault)
    sound = [item for item in supervisions if _fault_in_place(item, cut) is None]
    if sound:
        whole = cut.filter_supervisions(lambda item: item in sound)
        for piece in whole.trim_to_supervisions(keep_overlapping=False):
            yield ToldUtterance(_named(piece), True, None)


def fault_in_any(cut: Cut) -> str | None:
    """What of a cut of any kind cannot be true; None if all can."""
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
    if isinstance(cut, MixedCut):
        return [track.cut.recording for track in cut.tracks if getattr(track.cut, "has_recording", False)]
    recording = getattr(cut, "recording", None)
    return [] if recording is None else [recording]


def find_files(cut: Cut, beside: Path) -> tuple[list[Path], str | None]:
    """The audio files of a cut, and what is wrong with its sources.

    A relative path holds from the current directory, as in Lhotse; else from the folder of the manifest. The
    cut is changed to say so.
    """
    files = []
    for recording in recordings_of(cut):
        for source in recording.sources:
            if source.type == "url":
                return files, "its audio is at a URL, which is not fetched here: download it"
            if source.type == "shar":
                return files, "its audio is in a Shar archive: name the folder, not the manifest in it"
            if source.type != "file":
                continue
            path = Path(source.source)
            if not path.is_file() and (beside / path).is_file():
                path = beside / path
            source.source = str(path.resolve()) if path.is_file() else str(path)
            files.append(Path(source.source))
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


def _named(cut: Cut) -> Cut:
    return cut.with_id(cut.supervisions[0].id) if cut.supervisions else cut


def _alone(cut: Cut, supervision: SupervisionSegment) -> Cut:
    return _named(cut.filter_supervisions(lambda item: item is supervision or item.id == supervision.id))


def _fault_in_place(supervision: SupervisionSegment, cut: Cut) -> str | None:
    if not supervision.duration > 0:
        return f"its supervision lasts {supervision.duration:g} s"
    if supervision.start < -TOLERANCE or supervision.end > cut.duration + TOLERANCE:
        return (
            f"its supervision is at {supervision.start:.2f} to {supervision.end:.2f} s, the cut has "
            f"{cut.duration:.2f} s"
        )
    return None


def one_of(cut: MonoCut, words: list | None, custom: dict[str, Any]) -> MonoCut:
    """A cut of an utterance as `kdasr prepare` writes it: one supervision, and these word times."""
    if cut.supervisions:
        alignment = None if words is None else {"word": words}
        text = (cut.supervisions[0].text or "").strip()
        supervision = fastcopy(cut.supervisions[0], text=text, alignment=alignment)
    else:
        supervision = SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text="")
    return fastcopy(cut, supervisions=[supervision], custom=custom or None)
