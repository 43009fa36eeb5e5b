"""What streams cost to keep: memory of many idle ones, and a long one's memory and time from start to end.

    python tools/stream_memory.py [EXP --data DATA] [--streams 1000] [--minutes 30] [--search beam]

With EXP its model hears speech of DATA's dev part. Without, the model has the demo student's size and random
weights, and hears noise. Times are of this process's CPU. Idle streams have heard
a few seconds each, in batches; the long one is fed in packets of 100 ms. Memory is that of the process
(resident set), so run nothing else in it.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from benchmarking import load_speech, require, run_tool
from numpy.typing import NDArray

from kdasr.bundle import load_bundle
from kdasr.decoding.search import BeamOptions, GreedyOptions
from kdasr.models.encoders.conformer import ConformerConfig
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizable import Parts, Recognizable
from kdasr.recognition.recognizer import StreamingRecognizer

MIB = 1 << 20
SAMPLE_RATE = 16000
IDLE_SECONDS = 3.0
BATCH = 50


class _Numbers:
    """Names pieces by their ids, where there is no tokenizer."""

    def piece(self, index: int) -> str:
        return f"\u2581{index}"


@torch.no_grad()
def random_parts() -> Parts:
    """A model of the demo student's size with random weights that emits a piece in one of six frames."""
    torch.manual_seed(0)
    encoder = ConformerConfig(num_layers=4, dim=128, ffn_dim=384, subsampling_channels=16, dropout=0.0)
    model = build_transducer(
        TransducerConfig(vocab_size=100, encoder=encoder, predictor=StatelessConfig(), joiner_dim=128)
    ).eval()
    model.set_feature_stats(torch.full((80,), -6.0), torch.full((80,), 4.0))
    context, joiner = Context(left=32, chunk=8, right=0), model.joiner
    features_BTF = torch.from_numpy(whole_features(SAMPLE_RATE, noise(20.0, 99), model.geometry))[None]
    encoded = model.encode(features_BTF, torch.tensor([features_BTF.shape[1]]), context).encoded_BTD
    predicted = joiner.project_predictor(model.predictor(torch.randint(3, 100, (1, 50))))
    hidden = torch.tanh(joiner.project_encoder(encoded)[0, :, None] + predicted).flatten(0, 1)
    # Random layers vary in few directions; whitened, every piece has its turn.
    values, vectors = torch.linalg.eigh(torch.cov(hidden.T))
    weight = torch.randn(100, len(values)) @ (vectors / values.clamp(min=1e-5).sqrt()).T
    joiner.output.weight.copy_(weight / 2)
    joiner.output.bias.copy_(-(weight @ hidden.mean(dim=0)) / 2)
    joiner.output.bias[1:3] -= 100.0
    logits = joiner.output(hidden)
    joiner.output.bias[0] += (logits[:, 3:].amax(dim=1) - logits[:, 0]).quantile(5 / 6)
    return Parts(model, _Numbers(), context)  # type: ignore[arg-type]


def resident_mib() -> float:
    """Resident set of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


def noise(seconds: float, seed: int) -> NDArray[np.float32]:
    """Loud and quiet stretches, no two alike."""
    generator = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    loudness = np.repeat(generator.uniform(0, 0.2, count // 3200 + 1), 3200)[:count]
    return (loudness * generator.standard_normal(count)).astype(np.float32)


Listen = Callable[[float, int], NDArray[np.float32]]
"""Audio of so many seconds; another number, other audio."""


def speech_of(data: Path, seconds: float = 300.0) -> Listen:
    """Stretches of the dev part's speech."""
    samples = load_speech(data, seconds)

    def listen(seconds: float, number: int) -> NDArray[np.float32]:
        return np.roll(samples, -37 * SAMPLE_RATE // 10 * number)[: round(seconds * SAMPLE_RATE)]

    return listen


def idle_streams(recognizer: StreamingRecognizer, count: int, listen: Listen) -> None:
    """Print what `count` streams hold once each has heard some seconds."""
    warm = recognizer.create_stream()
    warm.accept_waveform(SAMPLE_RATE, listen(IDLE_SECONDS, 0))
    recognizer.decode_all([warm])
    before, streams = resident_mib(), []
    for start in range(0, count, BATCH):
        batch = [recognizer.create_stream() for _ in range(min(BATCH, count - start))]
        for number, stream in enumerate(batch):
            stream.accept_waveform(SAMPLE_RATE, listen(IDLE_SECONDS, start + number))
        recognizer.decode_all(batch)
        streams += batch
    grown = resident_mib() - before
    each = 1024 * grown / count
    print(f"{count} idle streams after {IDLE_SECONDS:g} s each: {grown:.0f} MiB, {each:.0f} KiB per stream")
    print(f"the whole process: {resident_mib():.0f} MiB")


def _minutes(
    recognizer: StreamingRecognizer, minutes: int, listen: Listen
) -> Iterator[tuple[list[float], float, int]]:
    """Of each minute of one stream: the seconds of each chunk, MiB, and the pieces so far."""
    stream, packet = recognizer.create_stream(), SAMPLE_RATE // 10
    for minute in range(minutes):
        samples, chunks = listen(60.0, minute), []
        for start in range(0, len(samples), packet):
            stream.accept_waveform(SAMPLE_RATE, samples[start : start + packet])
            while recognizer.is_ready(stream):
                began = time.process_time()
                recognizer.decode_streams([stream])
                chunks.append(time.process_time() - began)
        yield chunks, resident_mib(), len(stream.tokens)


def long_stream(recognizer: StreamingRecognizer, minutes: int, listen: Listen) -> None:
    """Print the time per chunk and the memory of one stream's first and last minutes."""
    shown = {1, 2, minutes // 2, minutes}
    for minute, (chunks, memory, pieces) in enumerate(_minutes(recognizer, minutes, listen), start=1):
        if minute in shown:
            print(
                f"minute {minute:3d}: {1000 * mean(chunks):.2f} ms per chunk (median "
                f"{1000 * float(np.median(chunks)):.2f}), {memory:.1f} MiB, {pieces} pieces"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, nargs="?", help="an experiment folder; default: random weights")
    parser.add_argument(
        "--data", type=Path, default=Path("data/demo"), help="prepared data; with an experiment"
    )
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--search", choices=["greedy", "beam"], default="greedy")
    arguments = parser.parse_args()
    if arguments.exp:
        require(arguments.exp, arguments.data)
    torch.set_num_threads(1)
    bundle: Recognizable = load_bundle(arguments.exp) if arguments.exp else random_parts()
    search = BeamOptions() if arguments.search == "beam" else GreedyOptions()
    recognizer = StreamingRecognizer(bundle, search=search)
    listen = speech_of(arguments.data) if arguments.exp else noise
    print(f"{arguments.exp or 'random weights'}, {recognizer.context}, {arguments.search} search")
    if arguments.minutes:
        long_stream(recognizer, arguments.minutes, listen)
    if arguments.streams:
        idle_streams(recognizer, arguments.streams, listen)


if __name__ == "__main__":
    run_tool(main)
