"""One model's hearing of one client's audio, with the wall time at which each piece was first shown."""

import time
from bisect import bisect_left
from dataclasses import dataclass, field

from kdasr.decoding.biasing import BiasingGraph
from kdasr.recognition.audio import Samples
from kdasr.recognition.live import Heard, LiveStream
from kdasr.recognition.recognizer import StreamingRecognizer

LONGEST_OFFLINE = 60.0
"""Seconds after which a model with full context answers, when nothing else has ended the segment."""
_REMEMBERED = 60.0
_MERGED = 0.01


@dataclass(frozen=True)
class ServedModel:
    """A recognizer under the name by which clients know it."""

    name: str
    recognizer: StreamingRecognizer

    @property
    def is_offline(self) -> bool:
        """Whether it hears a whole utterance before it answers: a teacher."""
        return self.recognizer.needs_end

    @property
    def chunk_seconds(self) -> float | None:
        """Audio per decoded chunk; None: the whole utterance."""
        if self.is_offline:
            return None
        return round(self.recognizer.context.chunk * self.recognizer.geometry.frame_seconds, 4)


@dataclass(frozen=True)
class Update:
    """What a model says after one more chunk. Times in seconds."""

    model: str
    heard: Heard
    is_changed: bool
    """Whether a piece differs from the last update."""
    latencies: list[float]
    """Of each piece: from the arrival of the last sample of its frame to the moment when it was shown first,
    queue and computing included."""
    audio: float
    """Received."""
    chunk_latency: float
    """From when the chunk could have been decoded to when it was."""
    step: float
    """Audio that the chunk has decoded."""
    compute: float
    """Its share of the computing of its batch, which is shared equally among the streams in it."""
    rtf: float
    """Computing so far over audio decoded so far."""


class Arrivals:
    """When which part of a stream's audio arrived."""

    def __init__(self) -> None:
        self._ends: list[float] = [0.0]
        self._times: list[float] = [time.monotonic()]

    @property
    def seconds(self) -> float:
        """Audio that arrived so far."""
        return self._ends[-1]

    def add(self, seconds: float, now: float) -> None:
        """So much audio arrived at `now` (`time.monotonic`). Crumbs are joined; what is old is forgotten."""
        end = self._ends[-1] + seconds
        if len(self._ends) > 1 and end - self._ends[-2] < _MERGED:
            self._ends[-1], self._times[-1] = end, now
            return
        self._ends.append(end)
        self._times.append(now)
        if len(self._ends) > 2 * _REMEMBERED / _MERGED:
            keep = bisect_left(self._ends, end - _REMEMBERED)
            del self._ends[:keep], self._times[:keep]

    def at(self, seconds: float) -> float:
        """When the audio up to here had arrived."""
        return self._times[min(bisect_left(self._ends, seconds - 1e-6), len(self._times) - 1)]


@dataclass
class _Shown:
    """The pieces of the last update, as (id, audio time), and their latencies."""

    pieces: list[tuple[int, float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    num_settled: int = 0
    """Of these pieces, the first so many stay."""


class Lane:
    """A model's `LiveStream` with its clock; used by the engine's thread alone."""

    def __init__(self, model: ServedModel, arrivals: Arrivals, biasing: BiasingGraph | None = None) -> None:
        """
        Raises:
            UserError: biasing that the model cannot do.
        """
        self.model, self.recognizer = model, model.recognizer
        self.live = LiveStream(self.recognizer, biasing)
        self._arrivals = arrivals
        self._shown = _Shown()
        self._reported, self._reported_at = 0.0, time.monotonic()
        self._closed_at = 0.0
        self._needed = 0.0
        self.compute_seconds = 0.0

    def accept(self, rate: int, samples: Samples) -> None:
        """Take some audio.

        Raises:
            UserError: unusable samples.
        """
        self.live.accept(rate, samples)
        if self.model.is_offline and self.live.stream.seconds >= LONGEST_OFFLINE:
            self.cut()

    def finish(self) -> None:
        """The input has ended."""
        if not self.live.stream.is_finished:
            self._closed_at = time.monotonic()
        self.live.finish()

    def cut(self) -> None:
        """Let a model with full context answer now: somebody else has heard that the utterance is over."""
        if self.live.cut():
            self._closed_at = time.monotonic()

    def begin_chunk(self) -> None:
        """Note which audio the next chunk needs; before it is decoded."""
        self._needed = self.live.needed_seconds

    def report(self, compute_seconds: float) -> Update:
        """What the model says now that a chunk was decoded, or the input has ended; begins the next segment.

        `compute_seconds`: its share of the computing.
        """
        now, heard = time.monotonic(), self.live.take()
        self.compute_seconds += compute_seconds
        is_changed = self._compare(heard, now)
        update = Update(
            model=self.model.name,
            heard=heard,
            is_changed=is_changed,
            latencies=list(self._shown.latencies),
            audio=self._arrivals.seconds,
            chunk_latency=now - max(self._reported_at, self._closed_at, self._arrivals.at(self._needed)),
            step=heard.decoded - self._reported,
            compute=compute_seconds,
            rtf=self.compute_seconds / max(heard.decoded, 1e-3),
        )
        self._reported, self._reported_at = heard.decoded, now
        if heard.is_final and not heard.is_eof:
            self._shown, self._closed_at = _Shown(), 0.0
        return update

    def _compare(self, heard: Heard, now: float) -> bool:
        """Give the pieces that are new their latency; whether there are any, or fewer than before."""
        shown, result = self._shown, heard.result
        start = shown.num_settled
        before, known = shown.pieces[start:], shown.latencies[start:]
        pieces = [(token.id, token.shown) for token in result.tokens[start:]]
        del shown.latencies[start:]
        for place, (piece, token) in enumerate(zip(pieces, result.tokens[start:], strict=True)):
            if place < len(before) and before[place] == piece:
                latency = known[place]
            else:
                end = heard.offset + (token.frame + 1) * result.frame_seconds
                latency = now - self._arrivals.at(end)
            shown.latencies.append(latency)
        shown.pieces[start:] = pieces
        shown.num_settled = heard.num_settled
        return before != pieces

    def figures(self) -> dict[str, object]:
        """What the stream was like, for its end."""
        return {
            "model": self.model.name,
            "audio": round(self._arrivals.seconds, 3),
            "compute": round(self.compute_seconds, 4),
            "rtf": round(self.compute_seconds / max(self._arrivals.seconds, 1e-3), 4),
            "faults": self.live.stream.faults,
        }
