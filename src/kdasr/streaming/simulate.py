"""A microphone that is not there: one recording fed at 1x real time, with a clock that counts compute.

Or several recordings at once without a clock, which is much faster and gives the same pieces and audio times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from kdasr.data.features import SAMPLE_RATE
from kdasr.streaming.recognizer import StreamingRecognizer
from kdasr.streaming.result import Result

PACKET_SECONDS = 0.1
"""Longest packet. Packets end where a window becomes ready, so that none waits for its packet's end."""


@dataclass(frozen=True)
class Simulation:
    """What was recognised, and when it would have been seen."""

    result: Result
    wall: list[float] | None
    """Seconds of real time since which each token has been there: audio, compute and queueing. None: not
    measured, because other recordings shared the batches."""
    compute_seconds: float
    """Features, encoder and search together; of shared batches, a share by duration."""


def simulate(
    recognizer: StreamingRecognizer,
    samples_N: NDArray[np.float32],
    timer: Callable[[], float] = perf_counter,
    nbest: int = 0,
) -> Simulation:
    """Recognise one recording (16 kHz) as a stream, and list its `nbest` best hypotheses at the end.

    Each packet arrives at the time of its last sample. Work on it starts then or, when the machine is
    still busy with an earlier packet, after that; it takes as long as `timer` measures here, one stream
    at a time.
    """
    stream = recognizer.create_stream()
    clock = compute = 0.0
    ids: list[int] = []
    wall: list[float] = []
    position, packet = 0, round(PACKET_SECONDS * SAMPLE_RATE)
    while not stream.is_finished:
        needed = recognizer.samples_needed(stream)
        end = min(len(samples_N), position + min(packet, needed or packet))
        clock = max(clock, end / SAMPLE_RATE)
        started = timer()
        if end > position:
            stream.accept_waveform(SAMPLE_RATE, samples_N[position:end])
        if end == len(samples_N):
            stream.input_finished(warn=False)
        while True:
            ready = recognizer.is_ready(stream)
            if ready:
                recognizer.decode_streams([stream])
            elapsed = timer() - started
            clock, compute, started = clock + elapsed, compute + elapsed, started + elapsed
            shown = [token.id for token in stream.tokens]
            wall = [
                wall[place] if place < len(ids) and ids[place] == token else clock
                for place, token in enumerate(shown)
            ]
            ids = shown
            if not ready:
                break
        position = end
    return Simulation(recognizer.result(stream, nbest), wall, compute)


def simulate_together(
    recognizer: StreamingRecognizer,
    waves: Sequence[NDArray[np.float32]],
    timer: Callable[[], float] = perf_counter,
    nbest: int = 0,
) -> list[Simulation]:
    """Recognise recordings (16 kHz) as streams that advance chunk by chunk in one batch.

    Pieces, their frames and the audio time at which they can be shown are those of `simulate`; when the
    machine would have been done with them is not measured.
    """
    started = timer()
    streams = [recognizer.create_stream() for _ in waves]
    for stream, samples_N in zip(streams, waves, strict=True):
        stream.accept_waveform(SAMPLE_RATE, samples_N)
        stream.input_finished(warn=False)
    recognizer.decode_all(streams)
    results = [recognizer.result(stream, nbest) for stream in streams]
    share = (timer() - started) / max(1, sum(len(samples_N) for samples_N in waves))
    return [
        Simulation(result, None, share * len(samples_N))
        for result, samples_N in zip(results, waves, strict=True)
    ]
