"""Where words begin and end, from the frames in which a model emits their pieces.

A model emits a piece some time after its word has begun, and its last one before or after the word has ended.
How much is measured on the corpus itself, without an alignment: an utterance's first word begins where its
energy rises, and its last one ends where it falls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdasr.evaluation.latency import RefWord, energy_onset
from kdasr.recognition.audio import Samples
from kdasr.self_training.word_times.pieces import EmittedWord

PAUSE = 0.2
"""Seconds between two words from which on there is a pause; in a shorter gap the first word lasts longer."""
NEAR = 0.2
"""An energy onset or end farther than this from what the model says is of something else."""


@dataclass(frozen=True)
class Speech:
    """Where the energy of a recording rises and falls, in seconds; None where nothing stands out."""

    begin: float | None
    end: float | None
    duration: float


@dataclass(frozen=True)
class Margins:
    """Seconds by which words begin before their first piece, and end after their last one."""

    lead: float
    tail: float


def find_speech(samples_N: Samples, sample_rate: int) -> Speech:
    """Where speech is by its energy (`energy_onset`, from both ends)."""
    duration = len(samples_N) / sample_rate
    # Whole frames of 10 ms, so that both directions look at the same ones.
    whole_N = samples_N[: len(samples_N) // 160 * 160]
    last = energy_onset(np.ascontiguousarray(whole_N[::-1]))
    return Speech(
        energy_onset(whole_N), None if last is None else len(whole_N) / sample_rate - last, duration
    )


def measure_margins(utterances: Sequence[tuple[Sequence[EmittedWord], Speech]]) -> Margins:
    """The medians over some utterances; 0 where none has an energy onset."""
    leads = [words[0].first - at for words, speech in utterances if (at := speech.begin) is not None]
    tails = [at - words[-1].last for words, speech in utterances if (at := speech.end) is not None]
    return Margins(*(float(np.median(found)) if found else 0.0 for found in (leads, tails)))


def place_words(words: Sequence[EmittedWord], speech: Speech, margins: Margins) -> list[RefWord]:
    """Begin and end of every word; none begins before the one before it does, or lies outside the recording.

    Args:
        words: of one utterance, at least one.
        speech: of its recording.
        margins: of the corpus.
    """
    limit = speech.duration
    begins = [min(max(word.first - margins.lead, 0.0), limit) for word in words]
    if speech.begin is not None and abs(speech.begin - begins[0]) < NEAR:
        begins[0] = min(speech.begin, max(words[0].first, 0.0))
    begins = list(np.maximum.accumulate(begins))
    ends = [min(max(word.last + margins.tail, 0.0), limit) for word in words]
    if speech.end is not None and abs(speech.end - ends[-1]) < NEAR:
        ends[-1] = max(speech.end, min(words[-1].last, limit))
    ends = [
        following if end > following - PAUSE else end
        for end, following in zip(ends, [*begins[1:], np.inf], strict=True)
    ]
    ends[-1] = min(ends[-1], limit)
    return [
        RefWord(word.word, round(float(begin), 3), round(float(max(begin, end)), 3))
        for word, begin, end in zip(words, begins, ends, strict=True)
    ]
