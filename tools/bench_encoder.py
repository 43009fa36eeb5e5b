"""Chunked training against full-context training of the same encoder, as the utterance grows.

The ratio falls with length where full attention is quadratic; chunked time per frame stays level.
"""

from typing import Any

import torch
from benchmarking import paired_ratio, run_benchmark

from kdasr.models.encoders.conformer import ConformerConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

SECONDS = [4, 16, 64]
STUDENT = Context(left=32, chunk=8, right=0)


def measure_length(seconds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = build_transducer(TransducerConfig(vocab_size=100, encoder=ConformerConfig(num_layers=4, dim=128)))
    batch = max(64 // seconds, 1)
    features = torch.randn(batch, 100 * seconds, 80)
    lens = torch.full((batch,), 100 * seconds)

    def step(context: Context) -> None:
        model.zero_grad()
        model.encode(features, lens, context).encoded_BTD.square().mean().backward()

    row = paired_ratio(lambda: step(STUDENT), lambda: step(Context.full()), runs=5)
    return {"utterance_seconds": seconds, "batch": batch, "against": "full context", **row}


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_benchmark(
        f"Encoder step (forward + backward, 64 s of audio, one thread) under {STUDENT} against full context",
        lambda: [measure_length(seconds) for seconds in SECONDS],
        "exp/bench/encoder.json",
    )
