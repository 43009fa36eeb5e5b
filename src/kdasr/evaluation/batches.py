"""Recordings recognized batch by batch, as simulated streams or as wholes; which ones share a batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np

from kdasr.data.features import SAMPLE_RATE
from kdasr.evaluation.evaluate import Recording
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import Simulation, simulate, simulate_together

BATCH_SECONDS = 120.0


class Lasting(Protocol):
    """Something that takes a time: a recording, or a cut."""

    @property
    def duration(self) -> float: ...


LastingT = TypeVar("LastingT", bound=Lasting)


def batches_of(items: Iterable[LastingT], seconds: float = BATCH_SECONDS) -> Iterator[list[LastingT]]:
    """Items in their order: batches of one, or of at most so much audio, padding included."""
    batch: list[LastingT] = []
    for item in items:
        longest = max([item.duration, *(other.duration for other in batch)])
        if batch and longest * (len(batch) + 1) > seconds:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@dataclass
class BatchDecoder:
    """Recognizes batch after batch.

    Streams (`streams` of them share a batch) are simulated from raw samples. Offline, recordings of at most
    `BATCH_SECONDS`, padding included, are recognized whole: a piece counts as shown at the end of its
    recording, and the compute of a batch is shared by duration.

    Streams that share a batch are faster, the same but for the rounding of larger matrix products, and
    nothing is known of the time with compute.
    """

    recognizer: StreamingRecognizer
    offline: bool = False
    streams: int = 1
    nbest: int = 0
    """Results list so many hypotheses (beam search only)."""
    _is_warm: bool = field(default=False, init=False)

    def plan(self, items: Sequence[LastingT]) -> list[list[LastingT]]:
        """The items in their order, in batches: a function of their durations alone."""
        if self.offline:
            return list(batches_of(items, BATCH_SECONDS))
        return [list(items[start : start + self.streams]) for start in range(0, len(items), self.streams)]

    def __call__(self, batch: Sequence[Recording]) -> list[tuple[Recording, Simulation]]:
        """What is recognized in the recordings of a batch."""
        if self.offline:
            return list(self._offline(batch))
        if self.streams > 1:
            waves = [recording.samples_N for recording in batch]
            return list(zip(batch, simulate_together(self.recognizer, waves, nbest=self.nbest), strict=True))
        if not self._is_warm:
            # The first windows of a process pay for memory and kernels that every later one finds ready.
            simulate(self.recognizer, np.zeros(2 * SAMPLE_RATE, dtype=np.float32))
            self._is_warm = True
        return [
            (recording, simulate(self.recognizer, recording.samples_N, nbest=self.nbest))
            for recording in batch
        ]

    def _offline(self, batch: Sequence[Recording]) -> Iterator[tuple[Recording, Simulation]]:
        started = perf_counter()
        waves = [recording.samples_N[:] for recording in batch]
        results = recognize_offline(self.recognizer, waves, self.nbest)
        seconds = sum(recording.duration for recording in batch)
        compute_per_second = (perf_counter() - started) / max(1e-9, seconds)
        for recording, result in zip(batch, results, strict=True):
            compute = compute_per_second * recording.duration
            yield recording, Simulation(result, [recording.duration + compute] * len(result.tokens), compute)
