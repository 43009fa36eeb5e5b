"""An utterance: speech, padding, room and noise, with the time of every word."""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from kdasr.corpora.synthetic.acoustics import apply_surroundings
from kdasr.corpora.synthetic.alignment import align_words
from kdasr.corpora.synthetic.espeak import Synthesizer, Voice
from kdasr.corpora.synthetic.grammar import Grammar
from kdasr.corpora.synthetic.noise import Samples, active_power
from kdasr.corpora.synthetic.plan import PlannedUtterance
from kdasr.corpora.synthetic.seeds import generator
from kdasr.corpora.synthetic.sizes import Size
from kdasr.corpora.synthetic.voices import SEEN_ACCENTS, UNSEEN_ACCENTS, Speaker, draw_speaker, voice_pairs

# Shapes: N samples.

SAMPLE_RATE = 16000
TRAILING_SECONDS = (0.1, 0.3)
LEVEL_DB = (-29.0, -23.0)
"""Root mean square of the active speech against full scale."""
OTHER_RATE = (1.1, 1.25)
"""How much faster people speak in the `other` parts."""
BABBLE_SECONDS = 20
BABBLE_TALKERS = 5
_MILLISECOND = SAMPLE_RATE // 1000


@dataclass(frozen=True)
class TimedWord:
    """A word and its interval in seconds."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class Rendered:
    """A finished utterance at 16 kHz; its length is a whole number of milliseconds."""

    samples_N: NDArray[np.int16]
    words: list[TimedWord]

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples_N) / SAMPLE_RATE


class Renderer:
    """Speaks utterances under a corpus seed. What it returns depends on the seed and the utterance alone."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._synthesizer = Synthesizer()
        self._babble_N: Samples | None = None

    def render(self, utterance: PlannedUtterance, speaker: Speaker) -> Rendered:
        """Synthesise one utterance of `speaker` as its part demands."""
        rng = generator(self.seed, "audio", utterance.id)
        is_other = "other" in speaker.part
        rate = speaker.rate * rng.uniform(0.96, 1.04) * (rng.uniform(*OTHER_RATE) if is_other else 1.0)
        voice = replace(speaker.voice, rate=round(rate), pitch=speaker.pitch + int(rng.integers(-3, 4)))
        speech_N, words = self._speak(utterance.text, voice, speaker.tract_percent)
        limits = self.size.other if is_other else self.size.clean
        lead, total = _padding(len(speech_N), limits.lead_seconds, rng)
        padded_N = np.zeros(total)
        padded_N[lead : lead + len(speech_N)] = speech_N
        offset = lead / SAMPLE_RATE
        timed = [TimedWord(word.word, word.start + offset, word.end + offset) for word in words]
        spans = [(round(word.start * SAMPLE_RATE), round(word.end * SAMPLE_RATE)) for word in timed]
        babble_N = self._babble() if limits.babble_share else None
        mixed_N = apply_surroundings(padded_N, spans, limits, babble_N, rng)
        mixed_N *= np.sqrt(10 ** (rng.uniform(*LEVEL_DB) / 10) / active_power(mixed_N))
        return Rendered(_quantise(mixed_N), timed)

    def _speak(self, text: str, voice: Voice, tract_percent: int) -> tuple[Samples, list[TimedWord]]:
        """Speech without surrounding silence at 16 kHz, and its words timed from its first sample.

        The vocal tract changes length by playing faster or slower; the rate makes up for the tempo.
        """
        pace = 100 / tract_percent
        speech = self._synthesizer.speak(text, replace(voice, rate=round(voice.rate / pace)))
        spans = align_words(text, speech)
        first, last = spans[0].start, spans[-1].end
        down = round(speech.sample_rate / 50 * pace)
        speech_N = resample(speech.samples_N[first:last].astype(np.float64), SAMPLE_RATE // 50, down)
        scale = 1 / (down * 50)
        return speech_N, [
            TimedWord(span.word, (span.start - first) * scale, (span.end - first) * scale) for span in spans
        ]

    def _babble(self) -> Samples:
        """Several people talking at once, the same in every process."""
        if self._babble_N is None:
            rng = generator(self.seed, "babble")
            grammar = Grammar(self.size.vocabulary)
            length = BABBLE_SECONDS * SAMPLE_RATE
            babble_N = np.zeros(length)
            for accent, variant in voice_pairs((*SEEN_ACCENTS, *UNSEEN_ACCENTS), rng)[:BABBLE_TALKERS]:
                talker = draw_speaker(("", ""), (accent, variant), self.size.voices, rng)
                said: list[Samples] = []
                while sum(map(len, said)) < length:
                    speech_N = self._speak(grammar.sentence(rng), talker.voice, talker.tract_percent)[0]
                    said.append(speech_N / np.sqrt(active_power(speech_N)))
                babble_N += np.concatenate(said)[:length]
            self._babble_N = babble_N
        return self._babble_N


@lru_cache(maxsize=64)
def _low_pass(up: int, down: int) -> Samples:
    widest = max(up, down)
    return signal.firwin(20 * widest + 1, 1 / widest, window=("kaiser", 5.0))


def resample(samples_N: Samples, up: int, down: int) -> Samples:
    """The samples at `up / down` times their rate, without aliases."""
    common = gcd(up, down)
    up, down = up // common, down // common
    return signal.resample_poly(samples_N, up, down, window=_low_pass(up, down))


def _padding(length: int, lead_seconds: tuple[float, float], rng: np.random.Generator) -> tuple[int, int]:
    """Samples of quiet before the speech, and the total, which is a whole number of milliseconds."""
    lead = int(rng.uniform(*lead_seconds) * 1000) * _MILLISECOND
    total = lead + length + int(rng.uniform(*TRAILING_SECONDS) * SAMPLE_RATE)
    return lead, -(-total // _MILLISECOND) * _MILLISECOND


def _quantise(samples_N: Samples) -> NDArray[np.int16]:
    peak = float(np.max(np.abs(samples_N)))
    gain = min(1.0, 0.98 / peak)
    return np.round(samples_N * gain * 32767).astype(np.int16)
