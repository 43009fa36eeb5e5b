"""From the synthesiser's word events to one interval per word."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdasr.corpora.synthetic.espeak import Speech

# Shapes: N samples.

SHORTEST_PAUSE_SECONDS = 0.08
"""Less quiet than this at a word's end is the closure of a plosive and belongs to the word."""


@dataclass(frozen=True)
class SpokenSpan:
    """A word and its first and one-past-last sample."""

    word: str
    start: int
    end: int


def spoken_words(text: str) -> list[re.Match[str]]:
    """The words of a text, without punctuation."""
    return list(re.finditer(r"[A-Za-z']+", text))


def transcript(text: str) -> str:
    """A spoken text as LibriSpeech writes it: upper case, no punctuation."""
    return " ".join(match.group().upper() for match in spoken_words(text))


def align_words(text: str, speech: Speech) -> list[SpokenSpan]:
    """One span per word of `text`, in order, touching or apart, never empty, inside the speech.

    espeak-ng joins some function words ("of the") under one event. Events are matched to words by
    text position, and the words of a joined group share its interval in proportion to their letters.
    A word before a pause stops where its sound stops.
    """
    words = spoken_words(text)
    starts = _event_samples(words, speech)
    first, last = _sound_limits(speech.samples_N, 0, len(speech.samples_N))
    starts[0] = first
    spans: list[SpokenSpan] = []
    index = 0
    while index < len(words):
        following = index + 1
        while following < len(words) and starts[following] is None:
            following += 1
        begin = starts[index]
        assert begin is not None
        end = last if following == len(words) else starts[following]
        assert end is not None
        sound_end = _sound_limits(speech.samples_N, begin, end)[1]
        if end - sound_end > SHORTEST_PAUSE_SECONDS * speech.sample_rate:
            end = sound_end
        group = [match.group() for match in words[index:following]]
        spans.extend(_share(group, begin, max(end, begin + len(group))))
        index = following
    return spans


def _event_samples(words: list[re.Match[str]], speech: Speech) -> list[int | None]:
    """The first sample of each word, None where the synthesiser reports none; never going back."""
    starts: list[int | None] = [None] * len(words)
    latest = 0
    for event in speech.events:
        for index, match in enumerate(words):
            if match.start() <= event.text_position < match.end():
                if starts[index] is None and event.sample >= latest:
                    starts[index] = latest = event.sample
                break
    return starts


def _sound_limits(samples_N: NDArray[np.float32], begin: int, end: int) -> tuple[int, int]:
    """The first and one-past-last sample in [begin, end) above 1 % of the loudest (-40 dB)."""
    magnitude_N = np.abs(samples_N[begin:end])
    loud = np.flatnonzero(magnitude_N > 0.01 * magnitude_N.max(initial=0.0))
    if len(loud) == 0:
        return begin, end
    return begin + int(loud[0]), begin + int(loud[-1]) + 1


def _share(group: list[str], begin: int, end: int) -> list[SpokenSpan]:
    letters = np.cumsum([0] + [len(word) for word in group])
    limits = begin + np.round((end - begin) * letters / letters[-1]).astype(int)
    return [
        SpokenSpan(word.upper(), int(start), int(stop))
        for word, start, stop in zip(group, limits[:-1], limits[1:], strict=True)
    ]
