"""How many live streams one core serves: `make bench-stream`.

The same exported student in three runtimes, one thread each: PyTorch, the bundle in onnxruntime under our
recogniser, and the bundle in sherpa-onnx. Audio arrives in real time on a clock that counts measured compute
only: every stream sends its samples chunk by chunk, the streams out of step with each other; the server takes
all chunks that have arrived, decodes them in batches, and is busy for as long as that took. A runtime serves
N streams when 99 % of the chunks are decoded within a chunk's length of their arrival. Every runtime may use
the largest batch that suits it.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import sherpa_onnx
import torch
from benchmarking import print_rows
from numpy.typing import NDArray

from kdasr.checkpoint import load_bundle
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.export.runtime import load_parts
from kdasr.nn.context import FRAME_SECONDS
from kdasr.streaming.recognizer import StreamingRecognizer

BATCHES = (1, 8, 32)
CHUNKS = 24
"""Chunks per stream and trial; the first quarter warms up."""
SECONDS_OF_ONE = 60
"""Audio of the single stream whose real-time factor is measured."""
LARGEST = 4096


class Recognizer(Protocol):
    """What the server needs, and both libraries have alike."""

    def create_stream(self) -> Any: ...
    def is_ready(self, stream: Any) -> bool: ...
    def decode_streams(self, streams: list[Any]) -> None: ...


def sherpa_recognizer(bundle: Path) -> Recognizer:
    """sherpa-onnx's own recogniser of the bundle."""
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(bundle / "tokens.txt"),
        encoder=str(bundle / "encoder.onnx"),
        decoder=str(bundle / "decoder.onnx"),
        joiner=str(bundle / "joiner.onnx"),
        num_threads=1,
        decoding_method="greedy_search",
    )


def speech(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise in syllables: the work does not depend on what is said."""
    random = np.random.default_rng(seed)
    samples = random.normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)
    return samples * (0.5 + 0.5 * np.sin(np.arange(len(samples)) * 2 * np.pi * 4 / SAMPLE_RATE)).astype(
        np.float32
    )


def real_time_factor(recognizer: Recognizer, chunk: int) -> float:
    """Compute over audio of one stream, from samples to pieces."""
    samples = speech(SECONDS_OF_ONE)
    stream = recognizer.create_stream()
    start = time.perf_counter()
    for begin in range(0, len(samples), chunk):
        stream.accept_waveform(SAMPLE_RATE, samples[begin : begin + chunk])
        while recognizer.is_ready(stream):
            recognizer.decode_streams([stream])
    return (time.perf_counter() - start) / SECONDS_OF_ONE


def serves(recognizer: Recognizer, num_streams: int, batch: int, chunk: int) -> bool:
    """Whether 99 % of the chunks of so many streams are decoded within a chunk's length."""
    length = chunk / SAMPLE_RATE
    audio = speech(CHUNKS * length)
    streams = [recognizer.create_stream() for _ in range(num_streams)]
    phases = np.random.default_rng(num_streams).permutation(num_streams) / num_streams * length
    arrivals = sorted((phases[i] + k * length, i, k) for i in range(num_streams) for k in range(CHUNKS))
    delays, now, position = [], 0.0, 0
    while position < len(arrivals):
        now = max(now, arrivals[position][0])
        end = position
        while end < len(arrivals) and arrivals[end][0] <= now and end - position < max(batch, 1):
            end += 1
        waiting = arrivals[position:end]
        start = time.perf_counter()
        for _, i, k in waiting:
            streams[i].accept_waveform(SAMPLE_RATE, audio[k * chunk : (k + 1) * chunk])
        while ready := [
            streams[i] for i in dict.fromkeys(i for _, i, _ in waiting) if recognizer.is_ready(streams[i])
        ]:
            recognizer.decode_streams(ready)
        now += time.perf_counter() - start
        delays += [now - arrival for arrival, _, k in waiting if k >= CHUNKS // 4]
        position = end
        if now - waiting[0][0] > 4 * length:
            return False
    return float(np.percentile(delays, 99)) < length


def capacity(recognizer: Recognizer, batch: int, chunk: int) -> int:
    """The largest number of streams served: doubled until it fails, then halved in."""
    good, bad = 0, 1
    while bad <= LARGEST and serves(recognizer, bad, batch, chunk):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 20):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if serves(recognizer, middle, batch, chunk) else (good, middle)
    return good


def measure_bundle(exp: Path, bundle: Path) -> dict[str, Any]:
    onnx = StreamingRecognizer(load_parts(bundle))
    runtimes: dict[str, Recognizer] = {
        "torch": StreamingRecognizer(load_bundle(exp)),
        "onnx": onnx,
        "sherpa": sherpa_recognizer(bundle),
    }
    chunk = round(onnx.context.chunk * FRAME_SECONDS * SAMPLE_RATE)
    for runtime in runtimes.values():
        real_time_factor(runtime, chunk)
    rounds = [{name: real_time_factor(r, chunk) for name, r in runtimes.items()} for _ in range(3)]
    rtf = {name: statistics.median(x[name] for x in rounds) for name in runtimes}
    by_batch = {
        name: {batch: capacity(runtime, batch, chunk) for batch in BATCHES}
        for name, runtime in runtimes.items()
    }
    streams = {name: max(found.values()) for name, found in by_batch.items()}
    print_rows(
        [
            {"runtime": name, "rtf": rtf[name], "streams_per_core": streams[name]}
            | {f"batch_{batch}": n for batch, n in by_batch[name].items()}
            for name in runtimes
        ]
    )
    return {
        "chunk_seconds": chunk / SAMPLE_RATE,
        "streams_per_core": streams,
        "rtf": rtf,
        "ratio_to_sherpa": {name: streams[name] / streams["sherpa"] for name in streams},
        "by_batch": by_batch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", type=Path, default=Path("exp/demo/two-stage"), help="streaming system")
    parser.add_argument("--out", type=Path, default=Path("exp/bench/stream.json"), help="JSON file to write")
    options = parser.parse_args()
    if not options.exp.is_dir():
        raise SystemExit(f"bench_stream.py: no trained system at {options.exp}; `make demo` trains one")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        command = [sys.executable, "-m", "kdasr", "export", str(options.exp), "--out", str(bundle)]
        subprocess.run(command, check=True)
        result = measure_bundle(options.exp, bundle)
    write_json(options.out, result)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
