"""A microphone that is not there: one recording fed at 1x real time, with a clock that counts compute."""

from collections.abc import Callable
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
    wall: list[float]
    """Seconds of real time since which each token has been there: audio, compute and queueing."""
    compute_seconds: float
    """Features, encoder and search together."""


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
            stream.input_finished()
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
