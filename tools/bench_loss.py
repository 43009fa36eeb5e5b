"""Pruned RNN-T loss against torchaudio's unpruned one: forward and backward of everything after the encoder.

Both sides get the same encoder output, predictor output, joiner and output layer. Ours adds what pruning
needs (simple loss and ranges); the peer computes the joiner over the whole lattice.
"""

from typing import Any

import torch
import torchaudio
from benchmarking import paired_ratio, run_benchmark

from kdasr.losses.pruned_rnnt import (
    do_rnnt_pruning,
    get_rnnt_prune_ranges,
    rnnt_loss_pruned,
    rnnt_loss_smoothed,
)

SHAPES = [(16, 100, 20, 100), (16, 100, 25, 500), (8, 250, 60, 500)]
DIM = 128


def measure_shape(shape: tuple[int, int, int, int]) -> dict[str, Any]:
    B, T, S, V = shape
    torch.manual_seed(0)
    encoded = torch.randn(B, T, DIM, requires_grad=True)
    predicted = torch.randn(B, S + 1, DIM, requires_grad=True)
    symbols = torch.randint(1, V, (B, S))
    output, simple_am, simple_lm = (torch.nn.Linear(DIM, V) for _ in range(3))
    boundary = torch.tensor([[0, 0, S, T]]).expand(B, 4).contiguous()

    def ours() -> None:
        am, lm = simple_am(encoded), simple_lm(predicted)
        simple, grads = rnnt_loss_smoothed(
            lm, am, symbols, 0, lm_only_scale=0.25, am_only_scale=0.0, boundary=boundary, return_grad=True
        )
        ranges = get_rnnt_prune_ranges(*grads, boundary, 5)
        am_pruned, lm_pruned = do_rnnt_pruning(encoded, predicted, ranges)
        logits = output(torch.tanh(am_pruned + lm_pruned))
        (simple + rnnt_loss_pruned(logits, symbols, ranges, 0, boundary)).backward()

    def theirs() -> None:
        logits = output(torch.tanh(encoded[:, :, None] + predicted[:, None]))
        lengths = torch.full((B,), T, dtype=torch.int32)
        targets = torch.full((B,), S, dtype=torch.int32)
        torchaudio.functional.rnnt_loss(
            logits, symbols.int(), lengths, targets, blank=0, clamp=-1.0
        ).backward()

    return {
        "shape": list(shape),
        "against": "torchaudio.rnnt_loss",
        "what": "whole",
        **paired_ratio(ours, theirs),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_benchmark(
        "Pruned RNN-T against the unpruned loss of torchaudio, forward + backward, one thread, (B, T, S, V)",
        lambda: [measure_shape(shape) for shape in SHAPES],
        "exp/bench/loss.json",
    )
