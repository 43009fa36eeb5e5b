"""One thread that decodes the streams of all clients, a batch of their chunks at a time.

The event loop hands audio over and gets updates back; it never waits for a model. The thread owns every
recognizer stream, so none of them needs a lock. In each round every stream that has a chunk is decoded by
one, so that a client who sends an hour at once does not delay those who speak.

A chunk costs less in a batch of many. When the thread was idle and audio comes, it waits a small share of a
chunk's length for that of others, if there are so many streams that some is likely to come.
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.decoding.biasing import BiasingGraph
from kdasr.recognition.audio import Samples
from kdasr.serving.lane import Arrivals, Lane, ServedModel, Update
from kdasr.serving.limits import Limits
from kdasr.serving.metrics import Metrics

log = get_logger(__name__)

_BLOCK_SECONDS = 0.5
"""Audio of one stream that is taken at a time: features are computed between the rounds, for all in turn."""
_GATHERED = 32
"""With so many streams and more, a chunk's length by this is waited for others: one chunk or more comes."""


@dataclass(frozen=True)
class StreamFailure:
    """A stream that cannot go on."""

    code: str
    message: str
    is_ours: bool = False
    """Whether the client is not to blame."""


@dataclass(frozen=True)
class Taken:
    """Audio, in seconds, that no longer waits."""

    seconds: float


@dataclass(frozen=True)
class Ended:
    """A stream whose end was reported; the figures of each model."""

    figures: list[dict[str, Any]]


Event = Update | StreamFailure | Taken | Ended


@dataclass(eq=False)
class ServedAudio:
    """One client's audio on its way through the models."""

    models: Sequence[ServedModel]
    rate: int
    listener: Callable[[Event], None]
    """Called in the event loop."""
    biasing: dict[str, BiasingGraph] = field(default_factory=dict)
    """By model."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    lanes: list[Lane] = field(default_factory=list)
    waiting: deque[Samples] = field(default_factory=deque)
    is_finished: bool = False
    is_closed: bool = False

    @property
    def has_work(self) -> bool:
        """Whether a round would do something for it."""
        if self.is_closed:
            return False
        return bool(self.waiting) or self.is_finished or self.is_behind

    @property
    def is_behind(self) -> bool:
        """Whether a lane has something to decode or to report before it takes more audio."""
        return any(lane.live.is_ready or lane.live.is_silent_end for lane in self.lanes)


class Engine:
    """The thread and its inbox. Methods without an underscore are the event loop's, and never block."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits, metrics: Metrics) -> None:
        self.models = list(models)
        self._limits, self._metrics = limits, metrics
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._active: dict[ServedAudio, None] = {}
        self._num_open = 0
        chunks = [model.chunk_seconds for model in self.models if model.chunk_seconds is not None]
        self._gather_seconds = min(chunks, default=0.0) / _GATHERED
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="kdasr-decoding", daemon=True)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to decode; `loop` gets the updates."""
        self._loop = loop
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread; streams that are left are dropped."""
        self._inbox.put(None)
        self._thread.join(timeout)

    def open(self, audio: ServedAudio) -> None:
        """Create the streams of some audio; a failure is reported to its listener."""
        self._inbox.put(lambda: self._open(audio))

    def push(self, audio: ServedAudio, samples: Samples) -> None:
        """Give it some samples at its rate."""
        now = time.monotonic()
        self._inbox.put(lambda: self._push(audio, samples, now))

    def finish(self, audio: ServedAudio) -> None:
        """No more audio comes; it ends when all is decoded."""
        self._inbox.put(lambda: self._finish(audio))

    def close(self, audio: ServedAudio) -> None:
        """Drop some audio, whatever is left of it. Its listener gets nothing more."""
        self._inbox.put(lambda: self._close(audio))

    def _run(self) -> None:
        while self._take_inbox():
            for work in (self._feed, self._ends):
                self._post([event for audio in list(self._active) for event in self._guarded(audio, work)])
            for batch in self._batches():
                self._post(self._decode(batch))
            self._active = {audio: None for audio in self._active if audio.has_work}

    def _take_inbox(self) -> bool:
        """Do what is asked for; wait when there is nothing else to do. False: stop."""
        while True:
            is_idle = not self._active
            try:
                task = self._inbox.get(block=is_idle)
            except queue.Empty:
                return True
            if task is None:
                return False
            task()
            if is_idle and self._active and self._num_open >= _GATHERED:
                time.sleep(self._gather_seconds)

    def _open(self, audio: ServedAudio) -> None:
        self._num_open += 1
        try:
            audio.lanes = [
                Lane(model, audio.arrivals, audio.biasing.get(model.name)) for model in audio.models
            ]
        except Exception as error:
            self._fail(audio, error)

    def _push(self, audio: ServedAudio, samples: Samples, now: float) -> None:
        if not audio.is_closed:
            audio.arrivals.add(len(samples) / audio.rate, now)
            audio.waiting.append(samples)
            self._active[audio] = None

    def _finish(self, audio: ServedAudio) -> None:
        audio.is_finished = True
        self._active[audio] = None

    def _close(self, audio: ServedAudio) -> None:
        self._num_open -= not audio.is_closed
        audio.is_closed = True
        audio.lanes, audio.waiting = [], deque()
        self._active.pop(audio, None)

    def _feed(self, audio: ServedAudio) -> list[tuple[ServedAudio, Event]]:
        """Take samples up to a chunk, a block of them at most, unless what it has taken is not decoded yet.

        However small its packets: with one of them in a round, chunks of streams in arrears would come to
        their ends one by one, and be decoded in small batches.
        """
        if audio.is_behind:
            return []
        block, taken = round(_BLOCK_SECONDS * audio.rate), 0
        while audio.waiting and taken < block and not audio.is_behind:
            samples, room = audio.waiting.popleft(), block - taken
            if len(samples) > room:
                audio.waiting.appendleft(samples[room:])
            for lane in audio.lanes:
                lane.accept(audio.rate, samples[:room])
            taken += len(samples[:room])
        if taken:
            return [(audio, Taken(taken / audio.rate))]
        if audio.is_finished:
            for lane in audio.lanes:
                lane.finish()
        return []

    def _batches(self) -> Iterator[list[tuple[ServedAudio, Lane]]]:
        """All chunks that are ready, in batches of one model each."""
        for model in self.models:
            ready = [
                (audio, lane)
                for audio in self._active
                for lane in audio.lanes
                if lane.model is model and lane.live.is_ready
            ]
            for start in range(0, len(ready), self._limits.max_batch):
                yield ready[start : start + self._limits.max_batch]

    def _decode(self, batch: list[tuple[ServedAudio, Lane]]) -> list[tuple[ServedAudio, Event]]:
        """Decode one chunk of each. One that fails takes no other with it."""
        started = time.perf_counter()
        try:
            for _, lane in batch:
                lane.begin_chunk()
            batch[0][1].recognizer.decode_streams([lane.live.stream for _, lane in batch])
        except Exception as error:
            if len(batch) > 1:
                return [event for entry in batch for event in self._decode([entry])]
            self._fail(batch[0][0], error)
            return []
        seconds = (time.perf_counter() - started) / len(batch)
        events: list[tuple[ServedAudio, Event]] = []
        for audio, lane in batch:
            events += self._guarded(audio, partial(self._reports, lane, seconds))
        return events

    def _reports(self, lane: Lane, seconds: float, audio: ServedAudio) -> list[tuple[ServedAudio, Event]]:
        return [self._report(audio, lane, seconds)]

    def _report(self, audio: ServedAudio, lane: Lane, seconds: float) -> tuple[ServedAudio, Event]:
        update = lane.report(seconds)
        if seconds:
            self._metrics.add_chunk(update)
        if update.heard.is_final and update.heard.result.tokens and not lane.model.is_offline:
            for other in audio.lanes:
                if other.model.is_offline:
                    other.cut()
        return audio, update

    def _ends(self, audio: ServedAudio) -> list[tuple[ServedAudio, Event]]:
        """Reports of what has ended with nothing left to decode, and the end of the audio."""
        events = [self._report(audio, lane, 0.0) for lane in audio.lanes if lane.live.is_silent_end]
        if audio.is_finished and audio.lanes and all(lane.live.is_done for lane in audio.lanes):
            events.append((audio, Ended([lane.figures() for lane in audio.lanes])))
            self._close(audio)
        return events

    def _guarded(
        self, audio: ServedAudio, work: Callable[[ServedAudio], list[tuple[ServedAudio, Event]]]
    ) -> list[tuple[ServedAudio, Event]]:
        """What `work` reports; should it fail, its audio alone ends."""
        if audio.is_closed:
            return []
        try:
            return work(audio)
        except Exception as error:
            self._fail(audio, error)
            return []

    def _fail(self, audio: ServedAudio, error: Exception) -> None:
        """End what cannot go on. What the user has done is told; what we have done is logged."""
        was_open = bool(audio.lanes)
        self._close(audio)
        if isinstance(error, UserError):
            failure = StreamFailure("bad_samples" if was_open else "bad_start", str(error))
        else:
            log.error("a stream failed", exc_info=error)
            failure = StreamFailure("internal", "the server failed on this stream", is_ours=True)
        self._post([(audio, failure)])

    def _post(self, events: list[tuple[ServedAudio, Event]]) -> None:
        if events and self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(_deliver, events)
            except RuntimeError:  # the loop is closed: nobody listens any more
                log.debug("%d events after the end of the event loop", len(events))


def _deliver(events: list[tuple[ServedAudio, Event]]) -> None:
    for audio, event in events:
        audio.listener(event)
