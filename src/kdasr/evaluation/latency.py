"""Latency, as the project defines it: audio time at a simulated 1x input against word times of the reference.

- First word, the headline: when the first reference word is correctly shown for good, minus its onset. None
  where it was not recognized, and where all of it was shown before its onset: nobody knows a word then.
- First token: when the first piece that has a letter can be shown, minus the onset of the first word,
  whatever it says. A bare word boundary shows nothing. `FirstToken` says what it was worth.
- Emission delay of a correctly recognized word: when all its pieces are shown, minus the word's end.
- Finalization, where the last word was recognized: when all pieces are shown, minus the end of that word.

"Shown" is algorithmic, without compute, unless a name says `wall`. Times are seconds, measures milliseconds.

Shapes: N samples at 16 kHz, T frames of 10 ms, K samples of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from kdasr.data.audio_reading import SAMPLE_RATE
from kdasr.data.tokenizer import WORD_START
from kdasr.evaluation.wer import AlignedPair
from kdasr.recognition.audio import Samples
from kdasr.recognition.result import WordSpan
from kdasr.recognition.sources import SampleSource, blocks

_BLOCK = 60 * SAMPLE_RATE
"""Samples of a recording that `energy_onset` looks at at a time: whole frames."""


@dataclass(frozen=True)
class RefWord:
    """A reference word and where it is in the audio."""

    word: str
    start: float
    end: float


class FirstToken(StrEnum):
    """What the first visible piece of an utterance was. Each utterance with an onset is of one kind."""

    RIGHT = "right"
    """It belongs to the first reference word, which was recognized, and was shown at its onset or later."""
    WRONG = "wrong"
    """It belongs to another word."""
    PREMATURE = "premature"
    """It was shown before the onset, whatever it says."""
    MISSING = "missing"
    """Nothing was shown."""


@dataclass(frozen=True)
class UtteranceLatency:
    """The measures of one utterance, in milliseconds; None where there is nothing to measure."""

    first_word_ms: float | None
    first_word_wall_ms: float | None
    first_token: FirstToken | None
    """None without an onset."""
    first_token_ms: float | None
    first_token_wall_ms: float | None
    emission_delay_ms: list[float]
    """One value per correctly recognized word."""
    finalization_ms: float | None
    """None also where the last word was not recognized."""


def first_visible(pieces: Sequence[str]) -> int:
    """Index of the first piece that has more than a word boundary; how many there are when none has."""
    return next((index for index, piece in enumerate(pieces) if piece.strip(WORD_START)), len(pieces))


def first_token_ms(shown: Sequence[float], onset: float | None, first: int = 0) -> float | None:
    """Latency of piece `first` of those shown at `shown`; None without it or an onset."""
    if first >= len(shown) or onset is None:
        return None
    return 1000.0 * (shown[first] - onset)


def word_shown(word: WordSpan, shown: Sequence[float]) -> float:
    """When all pieces of a word are shown; a search that revises may show a later piece before an earlier."""
    return max(shown[word.first_token : word.last_token + 1])


def emission_delays_ms(
    words: Sequence[WordSpan],
    shown: Sequence[float],
    ref_words: Sequence[RefWord],
    pairs: Sequence[AlignedPair],
) -> list[float]:
    """Delay of every correctly recognized word, in the order of the reference.

    Args:
        words: recognized words.
        shown: time of each piece.
        ref_words: all words of the reference.
        pairs: alignment of both.
    """
    return [
        1000.0 * (word_shown(words[pair.hyp], shown) - ref_words[pair.ref].end)
        for pair in pairs
        if pair.correct and pair.ref is not None and pair.hyp is not None
    ]


def first_word_shown(
    words: Sequence[WordSpan], shown: Sequence[float], correct: dict[int, int]
) -> float | None:
    """When the first reference word was shown for good; None where it was not recognized.

    Args:
        words: recognized words.
        shown: time of each piece.
        correct: by index of a correctly recognized reference word, that of the recognized one.
    """
    return word_shown(words[correct[0]], shown) if 0 in correct else None


def first_token_of(first: float | None, onset: float | None, is_first_word: bool) -> FirstToken | None:
    """What the first visible piece was; None without an onset.

    Args:
        first: seconds at which it was shown; None: nothing was shown.
        onset: of the first word.
        is_first_word: whether it belongs to the first reference word, correctly recognized.
    """
    if onset is None:
        return None
    if first is None:
        return FirstToken.MISSING
    if first < onset:
        return FirstToken.PREMATURE
    return FirstToken.RIGHT if is_first_word else FirstToken.WRONG


def since_onset(shown: float | None, onset: float | None) -> float | None:
    """Milliseconds from the onset; None where something is missing, and before the onset."""
    if shown is None or onset is None or shown < onset:
        return None
    return 1000.0 * (shown - onset)


def finalization_ms(
    shown: Sequence[float], ref_words: Sequence[RefWord], correct: dict[int, int]
) -> float | None:
    """Latency of the piece that is shown last; None where the last reference word was not recognized."""
    if not ref_words or len(ref_words) - 1 not in correct:
        return None
    return 1000.0 * (max(shown) - ref_words[-1].end)


def measure(
    words: Sequence[WordSpan],
    shown: Sequence[float],
    wall: Sequence[float] | None,
    ref_words: Sequence[RefWord],
    pairs: Sequence[AlignedPair],
    onset: float | None = None,
    first: int = 0,
) -> UtteranceLatency:
    """All measures of one utterance.

    Args:
        words: recognized words.
        shown: algorithmic time of each piece.
        wall: the same with compute and queueing; None if that was not measured.
        ref_words: reference words with times; empty when there is no alignment.
        pairs: alignment of reference and recognized words.
        onset: start of speech when there are no reference words (see `energy_onset`).
        first: the first piece that shows something (see `first_visible`).
    """
    if ref_words:
        onset = ref_words[0].start
    correct = {
        pair.ref: pair.hyp for pair in pairs if pair.correct and pair.ref is not None and pair.hyp is not None
    }
    word = first_word_shown(words, shown, correct)
    word_ms = since_onset(word, onset)
    word_wall = None if wall is None or word_ms is None else first_word_shown(words, wall, correct)
    return UtteranceLatency(
        first_word_ms=word_ms,
        first_word_wall_ms=since_onset(word_wall, onset),
        first_token=first_token_of(
            shown[first] if first < len(shown) else None, onset, is_first_word=correct.get(0) == 0
        ),
        first_token_ms=first_token_ms(shown, onset, first),
        first_token_wall_ms=None if wall is None else first_token_ms(wall, onset, first),
        emission_delay_ms=emission_delays_ms(words, shown, ref_words, pairs) if ref_words else [],
        finalization_ms=finalization_ms(shown, ref_words, correct),
    )


def energy_onset(source: SampleSource) -> float | None:
    """Where speech starts by its energy, in seconds; a substitute for utterances without alignment.

    Energies of 10 ms frames are compared with a threshold 30 % of the way, in dB, from the background (10th
    percentile, at most 50 dB down) to the speech level (95th percentile). Speech starts at the first of five
    frames in a row above it. None when the two levels are within 6 dB: nothing stands out.
    """
    run, floor_db, range_db, fraction = 5, -50.0, 6.0, 0.3
    level_db = np.concatenate([_levels(block_N) for block_N in blocks(source, _BLOCK)] or [np.zeros(0)])
    if len(level_db) < run:
        return None
    background, speech = np.percentile(level_db, [10, 95])
    background = max(background, speech + floor_db)
    if speech - background < range_db:
        return None
    loud = level_db > background + fraction * (speech - background)
    runs = np.lib.stride_tricks.sliding_window_view(loud, run).all(axis=1)
    return float(runs.argmax() * 0.01) if runs.any() else None


def _levels(samples_N: Samples) -> NDArray[np.float64]:
    """Level of every whole frame of 10 ms, in dB."""
    frame = SAMPLE_RATE // 100
    frames_TK = samples_N[: len(samples_N) // frame * frame].astype(np.float64).reshape(-1, frame)
    return 10 * np.log10(np.square(frames_TK).mean(axis=1) + 1e-12)
