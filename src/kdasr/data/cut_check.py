"""Cuts that others made or changed: whether what a manifest says of an utterance can be true."""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.data.audio_reading import HIGHEST_RATE, LOWEST_RATE

TOLERANCE = 0.025
"""Seconds by which a cut may reach beyond its recording: durations are rounded, and speeds round samples."""


def check_cuts(cuts: Iterable[Any], path: Path) -> None:
    """Refuse a manifest with a cut that cannot be cut from its recording, or whose id is there twice.

    Only cuts of one recording are looked into; mixtures and paddings are made of such.

    Raises:
        UserError: names the manifest, the cut and what is wrong with it.
    """
    seen = set()
    for cut in cuts:
        fault = fault_of(cut)
        if fault is None and cut.id in seen:
            fault = "its id is there twice"
        if fault is not None:
            raise UserError(f"{path}: cut '{cut.id}': {fault}")
        seen.add(cut.id)


def fault_of(cut: Any) -> str | None:
    """What of a cut of one recording cannot be true; None if all can, and for any other cut."""
    try:
        return fault_in_cut(cut) if isinstance(cut, MonoCut) else None
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # values of whatever type
        return f"is not one ({first_line(error)})"


def fault_of_id(id: Any) -> str | None:
    """What of the id of a cut cannot be true."""
    return None if isinstance(id, str) else f"its id is {id!r:.40}, expected a text"


def fault_in_cut(cut: MonoCut) -> str | None:
    """What of a cut cannot be true; None if all can."""
    if fault := fault_of_id(cut.id):
        return fault
    for name, value, least in (("start", cut.start, 0.0), ("duration", cut.duration, None)):
        if not _is_number(value) or not math.isfinite(value):
            return f"{name} is {value!r:.40}, expected a number of seconds"
        if value <= 0 if least is None else value < least:
            return f"{name} is {value:g} s"
    if cut.features is not None and cut.features.storage_type == "memory_raw":
        return "its features are a pickle, which is not opened here"
    in_memory = cut.features is not None and str(cut.features.storage_type).startswith("memory")
    if cut.features is not None and not in_memory and not isinstance(cut.features.storage_path, str):
        return f"the place of its features is {cut.features.storage_path!r:.40}"
    return _fault_in_recording(cut) or _fault_in_supervisions(cut)


def _fault_in_recording(cut: MonoCut) -> str | None:
    recording = cut.recording
    if recording is None:
        return "has no recording, and features of others are not used"
    rate, count = recording.sampling_rate, recording.num_samples
    if type(rate) is not int or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        return f"sampling_rate is {rate!r:.40}, expected a whole number of Hz"
    if type(count) is not int or count < 1:
        return f"num_samples is {count!r:.40}, expected a whole number of samples"
    if not _is_number(recording.duration) or not abs(recording.duration - count / rate) <= TOLERANCE:
        return (
            f"the recording has {count} samples at {rate} Hz, and a duration of {recording.duration!r:.40} s"
        )
    if cut.start + cut.duration > recording.duration + TOLERANCE:
        end = cut.start + cut.duration
        return f"ends at {end:.2f} s, the recording has {recording.duration:.2f} s"
    if not recording.sources:
        return "its recording has no source"
    for source in recording.sources:
        if source.type == "command":
            return "its audio is what a shell command prints, which is not run here"
        if not isinstance(source.source, str | bytes) or not isinstance(source.channels, list):
            return f"a source of its recording is {source.source!r:.40}"
    known = sorted(channel for item in recording.sources for channel in item.channels)
    if not isinstance(recording.channel_ids, list) or sorted(recording.channel_ids) != known:
        return f"its recording has channels {recording.channel_ids!r:.40}, its files have {known}"
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if not set(map(repr, channels)) <= set(map(repr, known)):
        return f"channel {cut.channel!r:.40} is not in its recording"
    return None


def _fault_in_supervisions(cut: MonoCut) -> str | None:
    for supervision in cut.supervisions:
        if not _is_text(supervision.id):
            return f"the id of its supervision is {supervision.id!r:.40}, expected a text"
        times = (supervision.start, supervision.duration)
        if not all(_is_number(value) and math.isfinite(value) for value in times):
            return f"its supervision starts at {times[0]!r:.40} and lasts {times[1]!r:.40}"
        if supervision.text is not None and not _is_text(supervision.text):
            return f"its text is {supervision.text!a:.40}"
        if isinstance(supervision.speaker, str) and not _is_text(supervision.speaker):
            return f"its speaker is {supervision.speaker!a:.40}"
        for item in (supervision.alignment or {}).get("word", []):
            times_are_numbers = _is_number(item.start) and _is_number(item.duration)
            if not _is_text(item.symbol) or not times_are_numbers:
                return f"an aligned word is {item.symbol!r:.40} at {item.start!r:.40}"
    return None


def _is_text(value: Any) -> bool:
    """Whether a value is a text that can be written: halves of a character (`\\ud83d`) cannot."""
    return isinstance(value, str) and re.search("[\ud800-\udfff]", value) is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
