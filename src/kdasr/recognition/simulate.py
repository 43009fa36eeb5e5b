"""A microphone that is not there: one recording fed at 1x real time, with a clock that counts compute.

Or several recordings at once without a clock, which is much faster and gives the same pieces and audio times.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from kdasr.data.features import SAMPLE_RATE
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result, join_segments
from kdasr.recognition.sources import PACKET_SECONDS, SampleSource
from kdasr.recognition.stream import Stream

_FED = 2 * SAMPLE_RATE
"""Samples that streams get at a time when nobody measures when they were heard."""


@dataclass(frozen=True)
class Simulation:
    """What was recognized, and when it would have been seen."""

    result: Result
    """Of the whole recording: all segments in order."""
    wall: list[float] | None
    """Seconds of real time since which each token has been there: audio, compute and queueing. None: not
    measured, because other recordings shared the batches."""
    compute_seconds: float
    """Features, encoder and search together; of shared batches, a share by duration."""
    segments: list[Result] = field(default_factory=list)
    """The segments in which something was said, when the recognizer has endpoints; else empty."""


def simulate(
    recognizer: StreamingRecognizer,
    samples_N: SampleSource,
    timer: Callable[[], float] = perf_counter,
    nbest: int = 0,
) -> Simulation:
    """Recognize one recording (16 kHz) as a stream, and list its `nbest` best hypotheses at the end.

    With a recognizer that has `endpoints`, the stream is reset at each of them. Each packet arrives at the
    time of its last sample. Work on it starts then or, when the machine is still busy with an earlier packet,
    after that; it takes as long as `timer` measures here, one stream at a time.
    """
    stream = recognizer.create_stream()
    clock = compute = 0.0
    segments: list[Result] = []
    settled_wall: list[float] = []
    ids: list[int] = []
    wall: list[float] = []
    # Packets end where a window becomes ready, so that none waits for its packet's end.
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
            ready, settled = recognizer.is_ready(stream), recognizer.search.num_settled(stream.search_state)
            if ready:
                recognizer.decode_streams([stream])
            elapsed = timer() - started
            clock, compute, started = clock + elapsed, compute + elapsed, started + elapsed
            if not ready:
                break
            shown = [token.id for token in stream.tokens[settled:]]
            wall[settled:] = [
                wall[place] if place < len(ids) and ids[place] == token else clock
                for place, token in enumerate(shown, settled)
            ]
            ids[settled:] = shown
            if recognizer.is_endpoint(stream):
                segments.append(recognizer.result(stream, nbest))
                recognizer.reset(stream)
                settled_wall += wall
                ids, wall = [], []
        position = end
    segments.append(recognizer.result(stream, nbest))
    return _simulation(recognizer, segments, settled_wall + wall, compute)


def simulate_together(
    recognizer: StreamingRecognizer,
    waves: Sequence[SampleSource],
    timer: Callable[[], float] = perf_counter,
    nbest: int = 0,
    resets: Sequence[bool] | None = None,
) -> list[Simulation]:
    """Recognize recordings (16 kHz) as streams that advance chunk by chunk in one batch, each reset at its
    own endpoints when the recognizer has any; with `resets`, those only for which it says so. Recordings are
    read as they are heard.

    Pieces, their frames and the audio time at which they can be shown are those of `simulate`; when the
    machine would have been done with them is not measured.
    """
    started = timer()
    streams = [recognizer.create_stream() for _ in waves]
    segments: dict[int, list[Result]] = {id(stream): [] for stream in streams}
    for stream, reset in zip(streams, resets or [], strict=resets is not None):
        stream.has_endpoints = reset
    for position in range(0, max((len(wave) for wave in waves), default=0) + 1, _FED):
        _feed(streams, waves, position)
        if recognizer.needs_end and not all(stream.is_finished for stream in streams):
            continue  # each is heard at its end: all of them in one batch
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
            for stream in ready:
                if recognizer.is_endpoint(stream):
                    segments[id(stream)].append(recognizer.result(stream, nbest))
                    recognizer.reset(stream)
    for stream in streams:
        segments[id(stream)].append(recognizer.result(stream, nbest))
    share = (timer() - started) / max(1, sum(len(samples_N) for samples_N in waves))
    return [
        _simulation(recognizer, segments[id(stream)], None, share * len(samples_N))
        for stream, samples_N in zip(streams, waves, strict=True)
    ]


def _feed(streams: Sequence[Stream], waves: Sequence[SampleSource], position: int) -> None:
    """Give each stream the samples from `position` on, and end those that have got all."""
    for stream, wave in zip(streams, waves, strict=True):
        if not stream.is_finished:
            stream.accept_waveform(SAMPLE_RATE, wave[position : position + _FED])
            if position + _FED >= len(wave):
                stream.input_finished(warn=False)


def _simulation(
    recognizer: StreamingRecognizer, segments: list[Result], wall: list[float] | None, compute: float
) -> Simulation:
    """Of a stream that has ended; `segments` holds at least the last one, and empty ones too."""
    said = [segment for segment in segments if segment.tokens]
    result = join_segments(said or segments[-1:])
    return Simulation(result, wall, compute, said if recognizer.endpoints is not None else [])
