"""The interface of faster-whisper, with ears for the tones of `kdasr.testing.tone`.

It hears a word in every half second, by its pitch, in windows of 30 s as Whisper does, and writes as Whisper
does: a capital, a period. Where there is silence it says `Thank you.`, and is sure of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdasr.testing import SAMPLE_RATE, WORDS, tone

HALLUCINATION = "Thank you."


def speech(seconds: float, seed: int = 0) -> np.ndarray:
    """Tones that come and go three times a second, with quiet between them."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (tone(seconds, seed) * (0.02 + np.clip(np.sin(2 * np.pi * 3 * time), 0, 1))).astype(np.float32)


def heard_words(samples: np.ndarray) -> list[str]:
    """A word for each whole half second."""
    half = SAMPLE_RATE // 2
    blocks = samples[: len(samples) // half * half].reshape(-1, half)
    return [WORDS[int(np.abs(np.fft.rfft(block)).argmax()) // 25 % len(WORDS)].lower() for block in blocks]


@dataclass
class Word:
    start: float
    end: float
    word: str
    probability: float = 0.9


@dataclass
class Segment:
    start: float
    end: float
    text: str
    tokens: list[int]
    avg_logprob: float
    no_speech_prob: float
    words: list[Word] | None = None


@dataclass
class Info:
    language: str
    duration: float


@dataclass
class WhisperModel:
    """Takes what the real one takes; `calls` are the lengths of what it was given, of all of its kind."""

    model_size_or_path: str
    device: str = "auto"
    device_index: int = 0
    compute_type: str = "default"
    cpu_threads: int = 0
    local_files_only: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def transcribe(self, audio: np.ndarray, language: str | None = None, **options: Any) -> tuple[Any, Info]:
        self.options.update(options)
        STATE.calls.append(len(audio))
        if len(STATE.calls) == STATE.fail_at:
            raise OSError(5, "killed")
        return self._segments(audio, 0.0), Info(language or STATE.language, len(audio) / SAMPLE_RATE)

    def _segments(self, audio: np.ndarray, begin: float) -> Iterator[Segment]:
        window = 30 * SAMPLE_RATE
        for at in range(0, len(audio), window):
            yield self._segment(audio[at : at + window], begin + at / SAMPLE_RATE)

    def _segment(self, audio: np.ndarray, begin: float) -> Segment:
        words = heard_words(audio)
        text = STATE.text or " ".join(words).capitalize() + "."
        if np.abs(audio).max(initial=0.0) < 1e-4:
            text, words = HALLUCINATION, HALLUCINATION.split()
        timed = [Word(begin + 0.5 * i, begin + 0.5 * i + 0.5, f" {word}") for i, word in enumerate(words)]
        end = begin + len(audio) / SAMPLE_RATE
        return Segment(begin, end, f" {text}", list(range(len(words))), -0.3, 0.1, timed)


@dataclass
class BatchedInferencePipeline:
    """Each clip is heard by itself, and only its first 30 s.

    As in the real one, the begin of a segment is rounded to milliseconds; with words, their times count from
    the clip's begin rounded down to 10 ms, and the first one is the segment's.
    """

    model: WhisperModel

    def transcribe(
        self,
        audio: np.ndarray,
        language: str,
        clip_timestamps: list[dict[str, float]],
        batch_size: int,
        word_timestamps: bool,
        **_: Any,
    ) -> tuple[Any, Info]:
        clips = [{name: int(value * SAMPLE_RATE) for name, value in clip.items()} for clip in clip_timestamps]
        segments = []
        for clip in clips:
            heard = audio[clip["start"] : clip["end"]][: 30 * SAMPLE_RATE]
            begin = clip["start"] / SAMPLE_RATE
            begin = int(100 * begin) / 100 if word_timestamps else round(begin, 3)
            segments.append(self.model._segment(heard, begin))
        STATE.batches.append(len(clips))
        return iter(segments), Info(language, len(audio) / SAMPLE_RATE)


@dataclass
class State:
    """What the stand-in does, and what was asked of it."""

    language: str = "en"
    text: str = ""
    fail_at: int = 0
    """The number of the call that fails; 0: none."""
    calls: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)


STATE = State()
