"""Which utterances a transducer can be trained on; the others are reported, never dropped in silence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from lhotse import CutSet
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.logging import get_logger
from kdasr.data.audio_files import SHOWN, quote
from kdasr.data.data_config import DataConfig
from kdasr.data.features import FRAME_SHIFT_SAMPLES, SAMPLE_RATE, num_feature_frames
from kdasr.data.tokenizer import Tokenizer

# Shapes: N cuts.

log = get_logger(__name__)

SPECIAL, UNKNOWN = 1 << 15, 1 << 14
"""Bits of a count of pieces: there is one that is no text, such as `<blk>`; there is `<unk>`."""
MOST_PIECES = UNKNOWN - 1
"""The rest of the bits: so many pieces or more."""
AT_ONCE = 1 << 20
"""Cuts that are looked at together, so that little memory is needed for many."""
USABLE, SHORT, LONG, NO_TEXT, NO_ROOM = range(5)
"""What `judge` says of a cut."""


NumFrames = Callable[[int], int]
"""How many frames a model's encoder makes of so many feature frames (10 ms)."""


def every_frame(num_features: int) -> int:
    """Of a model that is not known: it has no more frames than there are feature frames."""
    return num_features


class Unusable(NamedTuple):
    """A cut that is left out, and why."""

    id: str
    reason: str


def cut_text(cut: MonoCut) -> str:
    """The transcript of a cut; empty when it has none."""
    return (cut.supervisions[0].text or "") if cut.supervisions else ""


def count_pieces(text: str, tokenizer: Tokenizer) -> int:
    """How many pieces a text has, with the bits `SPECIAL` and `UNKNOWN`: 16 bits in all."""
    pieces = tokenizer.encode(text)
    special = SPECIAL if tokenizer.blank_id in pieces or tokenizer.sos_eos_id in pieces else 0
    unknown = UNKNOWN if tokenizer.unk_id in pieces else 0
    return min(len(pieces), MOST_PIECES) | special | unknown


def judge(
    samples_N: NDArray[np.int32],
    pieces_N: NDArray[np.uint16],
    config: DataConfig,
    num_frames: NumFrames = every_frame,
    *,
    for_training: bool = True,
) -> NDArray[np.uint8]:
    """Which cuts are `USABLE`, and what is wrong with the others, (N,).

    Those that are too short, too long, or have fewer encoder frames than pieces are not, nor those with a
    piece in their transcript that is no text. What is only recognized (`for_training` false) may be of any
    length, and may have fewer frames than pieces.

    Args:
        samples_N: lengths at 16 kHz.
        pieces_N: what `count_pieces` says of their transcripts.
        config: the shortest and longest utterance.
        num_frames: of the encoder.
        for_training: see above.
    """
    verdict_N = np.zeros(len(samples_N), np.uint8)
    for start in range(0, len(samples_N), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        verdict_N[some] = _judged(samples_N[some], pieces_N[some], config, num_frames, for_training)
    return verdict_N


def _judged(
    samples_N: NDArray[np.int32],
    pieces_N: NDArray[np.uint16],
    config: DataConfig,
    num_frames: NumFrames,
    for_training: bool,
) -> NDArray[np.uint8]:
    verdict_N = np.zeros(len(samples_N), np.uint8)
    features_N = (samples_N + FRAME_SHIFT_SAMPLES // 2) // FRAME_SHIFT_SAMPLES
    if for_training:
        verdict_N[samples_N < config.min_seconds * SAMPLE_RATE] = SHORT
        verdict_N[samples_N > config.max_seconds * SAMPLE_RATE] = LONG
        features_N[verdict_N != USABLE] = 0
    frames_of = np.zeros(int(features_N.max(initial=0)) + 1, np.int32)
    for length in np.flatnonzero(np.bincount(features_N)).tolist():
        frames_of[length] = num_frames(length)
    needed_N = np.maximum(pieces_N & MOST_PIECES, 1) if for_training else 1
    open_N = verdict_N == USABLE
    verdict_N[open_N & (frames_of[features_N] < needed_N)] = NO_ROOM
    verdict_N[open_N & ((pieces_N & SPECIAL) != 0)] = NO_TEXT
    return verdict_N


def log_unusable(
    verdict_N: NDArray[np.uint8],
    pieces_N: NDArray[np.uint16],
    config: DataConfig,
    tokenizer: Tokenizer,
    ids: Callable[[Sequence[int]], list[str]],
) -> None:
    """Log ids and counts of what `judge` found, and of transcripts with characters that the tokenizer does
    not know (which stay in, with `<unk>` pieces). `ids` are those of some of the cuts."""
    total = len(verdict_N)
    for verdict, kind in _kinds(config).items():
        rows = np.flatnonzero(verdict_N == verdict)
        if len(rows):
            named = quote(ids(rows[:SHOWN].tolist()), len(rows))
            log.warning("%d of %d utterances left out, %s: %s", len(rows), total, kind, named)
    rows = np.flatnonzero((verdict_N == USABLE) & ((pieces_N & UNKNOWN) != 0))
    if len(rows):
        log.warning(
            "%d of %d transcripts have characters unknown to %s: %s",
            len(rows),
            total,
            tokenizer.model_path,
            quote(ids(rows[:SHOWN].tolist()), len(rows)),
        )


def _kinds(config: DataConfig) -> dict[int, str]:
    return {
        SHORT: f"shorter than {config.min_seconds:g} s",
        LONG: f"longer than {config.max_seconds:g} s",
        NO_TEXT: "special symbols in the transcript",
        NO_ROOM: "fewer encoder frames than pieces",
    }


def report_unusable(
    cuts: CutSet,
    tokenizer: Tokenizer,
    config: DataConfig,
    num_frames: NumFrames = every_frame,
    *,
    for_training: bool = True,
) -> tuple[CutSet, list[Unusable]]:
    """Split off the utterances that are not usable (see `judge`), and log them (see `log_unusable`)."""
    listed = list(cuts)
    samples_N = np.array([samples_of(cut) for cut in listed], np.int32)
    pieces_N = np.array([count_pieces(cut_text(cut), tokenizer) for cut in listed], np.uint16)
    verdict_N = judge(samples_N, pieces_N, config, num_frames, for_training=for_training)
    log_unusable(verdict_N, pieces_N, config, tokenizer, lambda rows: [listed[row].id for row in rows])
    unusable = []
    for row in np.flatnonzero(verdict_N != USABLE).tolist():
        cut, verdict = listed[row], int(verdict_N[row])
        value = f"{cut.duration:.2f} s"
        if verdict == NO_TEXT:
            value = cut_text(cut)
        elif verdict == NO_ROOM:
            frames = num_frames(num_feature_frames(int(samples_N[row])))
            value = f"{frames} frames, {pieces_N[row] & MOST_PIECES} pieces"
        unusable.append(Unusable(cut.id, f"{_kinds(config)[verdict]} ({value})"))
    return CutSet.from_cuts(listed[row] for row in np.flatnonzero(verdict_N == USABLE)), unusable


def samples_of(cut: MonoCut) -> int:
    """The length of a cut at 16 kHz; at most what 32 bits hold, which is 37 hours."""
    return min(round(cut.duration * SAMPLE_RATE), 2**31 - 1 - SAMPLE_RATE)
