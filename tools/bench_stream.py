"""How many live streams one core serves: `make bench-stream`.

The same exported student in three runtimes, one thread each: PyTorch, the bundle in onnxruntime under our
recognizer, and the bundle in sherpa-onnx. Speech of the dev part arrives in real time, on a clock that counts
this process's CPU time only: every stream sends its samples chunk by chunk, the streams out of step with each
other; the server takes the chunks that have arrived, decodes them in a batch, and is busy for as long as that
took. A runtime serves N streams when 99 % of the chunks are decoded within a chunk's length of their arrival.
Each may use the largest batch that suits it.
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
from benchmarking import load_speech, print_rows, require, run_tool
from numpy.typing import NDArray

from kdasr.bundle import load_bundle
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.export.runtime import load_exported
from kdasr.recognition.recognizer import StreamingRecognizer

BATCHES = (16, 64)
ROUNDS = 2
"""How often each capacity is searched for; the best counts, because what else the machine does only costs."""
CHUNKS = 16
"""Chunks per stream and trial; the first quarter warms up."""
SECONDS_OF_ONE = 60
"""Audio of the single stream whose real-time factor is measured."""


class Recognizer(Protocol):
    """What the server needs, and both libraries have alike."""

    def create_stream(self) -> Any: ...
    def is_ready(self, stream: Any) -> bool: ...
    def decode_streams(self, streams: list[Any]) -> None: ...


def sherpa_recognizer(bundle: Path) -> Recognizer:
    """sherpa-onnx's own recognizer of the bundle."""
    return sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(bundle / "tokens.txt"),
        encoder=str(bundle / "encoder.onnx"),
        decoder=str(bundle / "decoder.onnx"),
        joiner=str(bundle / "joiner.onnx"),
        num_threads=1,
        decoding_method="greedy_search",
    )


class Trials:
    """One runtime under load."""

    def __init__(self, recognizer: Recognizer, speech: NDArray[np.float32], chunk: int) -> None:
        """`chunk`: samples per packet, as many as the model decodes at a time."""
        self.recognizer = recognizer
        self.speech = speech
        self.chunk = chunk
        self.length = chunk / SAMPLE_RATE

    def packet(self, stream: int, number: int) -> NDArray[np.float32]:
        """A stream's next samples: every stream is at another place in the speech."""
        packets = len(self.speech) // self.chunk
        start = (7 * stream + number) % packets * self.chunk
        return self.speech[start : start + self.chunk]

    def real_time_factor(self) -> float:
        """Compute over audio of one stream, from samples to pieces."""
        stream = self.recognizer.create_stream()
        count = round(SECONDS_OF_ONE / self.length)
        start = time.process_time()
        for number in range(count):
            stream.accept_waveform(SAMPLE_RATE, self.packet(0, number))
            while self.recognizer.is_ready(stream):
                self.recognizer.decode_streams([stream])
        return (time.process_time() - start) / (count * self.length)

    def serves(self, num_streams: int, batch: int) -> bool:
        """Whether 99 % of the chunks of so many streams are decoded within a chunk's length."""
        streams = [self.recognizer.create_stream() for _ in range(num_streams)]
        phases = np.random.default_rng(num_streams).permutation(num_streams) / num_streams * self.length
        arrivals = sorted(
            (phases[i] + k * self.length, i, k) for i in range(num_streams) for k in range(CHUNKS)
        )
        delays, now, position = [], 0.0, 0
        while position < len(arrivals):
            now = max(now, arrivals[position][0])
            end = position
            while end < len(arrivals) and arrivals[end][0] <= now and end - position < batch:
                end += 1
            waiting = arrivals[position:end]
            now += self._decode([(streams[i], self.packet(i, k)) for _, i, k in waiting])
            delays += [now - arrival for arrival, _, k in waiting if k >= CHUNKS // 4]
            position = end
            if now - waiting[0][0] > 3 * self.length:
                return False
        return float(np.percentile(delays, 99)) < self.length

    def _decode(self, packets: list[tuple[Any, NDArray[np.float32]]]) -> float:
        """Seconds that some packets take."""
        start = time.process_time()
        for stream, samples in packets:
            stream.accept_waveform(SAMPLE_RATE, samples)
        streams = list(dict.fromkeys(stream for stream, _ in packets))
        while ready := [stream for stream in streams if self.recognizer.is_ready(stream)]:
            self.recognizer.decode_streams(ready)
        return time.process_time() - start

    def capacity(self, batch: int) -> int:
        """The largest number of streams served, to 2 %."""
        good, bad = 0, self._more_than_possible(batch)
        while self.serves(bad, batch):
            good, bad = bad, 2 * bad
        while bad - good > max(1, good // 50):
            # What is served is mostly not far below what compute alone allows.
            middle = (3 * bad) // 4 if good == 0 and bad > 4 else (good + bad) // 2
            good, bad = (middle, bad) if self.serves(middle, batch) else (good, middle)
        return good

    def _more_than_possible(self, batch: int) -> int:
        """Chunks per chunk's length that full batches, and nothing else, would allow."""
        streams = [self.recognizer.create_stream() for _ in range(batch)]
        times = [self._decode([(s, self.packet(i, k)) for i, s in enumerate(streams)]) for k in range(8)]
        return max(2, round(1.1 * batch * self.length / statistics.median(times[2:])))


def measure_bundle(exp: Path, bundle: Path, data: Path) -> dict[str, Any]:
    onnx = StreamingRecognizer(load_exported(bundle))
    chunk = round(onnx.context.chunk * onnx.geometry.frame_seconds * SAMPLE_RATE)
    speech = load_speech(data, 120.0)
    runtimes = {
        "torch": Trials(StreamingRecognizer(load_bundle(exp)), speech, chunk),
        "onnx": Trials(onnx, speech, chunk),
        "sherpa": Trials(sherpa_recognizer(bundle), speech, chunk),
    }
    for runtime in runtimes.values():
        runtime.real_time_factor()
    rounds = [{name: runtime.real_time_factor() for name, runtime in runtimes.items()} for _ in range(3)]
    rtf = {name: statistics.median(x[name] for x in rounds) for name in runtimes}
    by_batch: dict[str, dict[int, list[int]]] = {name: {batch: [] for batch in BATCHES} for name in runtimes}
    for _ in range(ROUNDS):
        for batch in BATCHES:  # the runtimes take turns, so that all see the same machine
            for name, runtime in runtimes.items():
                by_batch[name][batch].append(runtime.capacity(batch))
    streams = {name: max(map(max, found.values())) for name, found in by_batch.items()}
    ratios = {name: streams[name] / streams["sherpa"] for name in streams}
    print(
        f"{chunk / SAMPLE_RATE:g} s chunks, one core; streams per core at p99 latency under a chunk's length"
    )
    print_rows(
        [
            {"runtime": name, "rtf": rtf[name], "streams_per_core": streams[name], "to_sherpa": ratios[name]}
            | {f"in_batches_of_{batch}": found for batch, found in by_batch[name].items()}
            for name in runtimes
        ]
    )
    return {
        "chunk_seconds": chunk / SAMPLE_RATE,
        "streams_per_core": streams,
        "rtf": rtf,
        "ratio_to_sherpa": max(ratios["torch"], ratios["onnx"]),
        "ratios_to_sherpa": ratios,
        "by_batch": by_batch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp", type=Path, default=Path("exp/demo/two-stage"), help="streaming system")
    parser.add_argument(
        "--data", type=Path, default=Path("data/demo"), help="prepared data, for its dev part"
    )
    parser.add_argument("--out", type=Path, default=Path("exp/bench/stream.json"), help="JSON file to write")
    options = parser.parse_args()
    require(options.exp, options.data)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        command = [sys.executable, "-m", "kdasr", "export", str(options.exp), "--out", str(bundle)]
        subprocess.run(command, check=True)
        result = measure_bundle(options.exp, bundle, options.data)
    write_json(options.out, result)
    print(f"written to {options.out}")


if __name__ == "__main__":
    run_tool(main)
