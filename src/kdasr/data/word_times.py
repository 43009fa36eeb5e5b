"""When the word of each piece is spoken, for training that ties pieces to their words."""

import math
from collections.abc import Iterable, Sequence

from lhotse.cut import MonoCut, MultiCut
from lhotse.supervision import AlignmentItem

from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import WORD_START, Tokenizer

log = get_logger(__name__)

ANYWHERE = (0.0, math.inf)
TOLERANCE = 0.1
"""Seconds by which a time may lie outside the recording: aligners count in frames, and round."""


def fault_in_times(items: Iterable[AlignmentItem], duration: float) -> str | None:
    """Why the times of some words (and silences) of a recording cannot be true; None if they can.

    Args:
        items: in the order of the transcript.
        duration: of the recording, in seconds.
    """
    latest = -math.inf
    for item in items:
        place = f"'{item.symbol}' at {item.start:.2f} to {item.start + item.duration:.2f} s"
        if not (math.isfinite(item.start) and math.isfinite(item.duration)):
            return place
        if item.duration < 0:
            return f"{place}: ends before it begins"
        if item.start < latest:
            return f"{place}: begins before the word before it"
        if item.start < -TOLERANCE or item.start + item.duration > duration + TOLERANCE:
            return f"{place}: the recording has {duration:.2f} s"
        latest = item.start
    return None


def fault_in_word_times(cut: MonoCut | MultiCut) -> str | None:
    """Why the word times of a cut cannot be true; None if they can, or if there are none."""
    return fault_in_times(_aligned(cut), cut.duration)


def warn_of_word_times(part: str, cuts: Sequence[MonoCut]) -> int:
    """Log which utterances have word times that cannot be true, and return how many."""
    faults = [f"{cut.id} ({fault})" for cut in cuts if (fault := fault_in_word_times(cut))]
    if faults:
        log.warning(
            "%s: %d of %d utterances have word times that cannot be true, so no latency: %s",
            part, len(faults), len(cuts), quote(faults),
        )  # fmt: skip
    return len(faults)


def aligned_words(cut: MonoCut | MultiCut) -> list[tuple[str, float, float]]:
    """Word, start and end in seconds from the cut's begin; silences left out.

    Empty without an alignment, and with one whose times cannot be true (`fault_in_word_times`): a latency
    that counts from them would be wrong.
    """
    if fault_in_word_times(cut):
        return []
    return [(item.symbol, item.start, item.end) for item in _aligned(cut) if item.symbol.strip()]


def _aligned(cut: MonoCut | MultiCut) -> list[AlignmentItem]:
    return [
        item for supervision in cut.supervisions for item in (supervision.alignment or {}).get("word", [])
    ]


def times_of_pieces(cut: MonoCut, pieces: Sequence[int], tokenizer: Tokenizer) -> list[tuple[float, float]]:
    """Start and end of the word that each piece belongs to; `ANYWHERE` for all if the words do not match."""
    words = [
        (word, start, end)
        for symbol, start, end in aligned_words(cut)
        for word in split_words(tokenizer.normalize(symbol))
    ]
    starts = [tokenizer.piece(piece).startswith(WORD_START) for piece in pieces]
    if not words or sum(starts) != len(words):
        return [ANYWHERE] * len(pieces)
    index, times = -1, []
    for begins in starts:
        index += begins
        times.append(words[max(index, 0)][1:])
    return times
