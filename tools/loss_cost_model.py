"""Where the time of the pruned loss goes: operations counted, at rates measured here, against the clock.

One thread. The model counts products (a multiplication and its sum: 2), passes over the nodes' logits and
hidden units, passes over the full lattice, and columns of the recursion. docs/performance.md explains it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_loss import SHAPES, Shape
from benchmarking import run_benchmark
from loss_candidates import S_RANGE, WIDTH, Inputs, candidate

from kdasr.losses.pruned_rnnt import mutual_information_recursion
from kdasr.nn.linear import Linear, linear_product

ROWS, CLASSES = 1024, 500


def milliseconds(function: Callable[[], Any], runs: int = 15) -> float:
    function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


class Rates:
    """What one thread of this machine does in a millisecond."""

    def __init__(self) -> None:
        hidden, weight = torch.randn(ROWS, WIDTH), torch.randn(CLASSES, WIDTH)
        logits, scratch = torch.randn(ROWS, CLASSES), torch.empty(ROWS, CLASSES)
        elements = ROWS * CLASSES
        self.products = 2 * ROWS * WIDTH * CLASSES / milliseconds(lambda: linear_product(hidden, weight))
        self.softmax = elements / milliseconds(lambda: torch.log_softmax(logits, -1))
        self.sigmoid = elements / milliseconds(lambda: torch.sigmoid(logits, out=scratch))
        self.in_cache = elements / milliseconds(lambda: torch.add(logits, logits, out=scratch))
        lattice, target = torch.randn(1 << 20), torch.empty(1 << 20)
        self.in_lattice = lattice.numel() / milliseconds(lambda: torch.add(lattice, lattice, out=target))
        self.exp = lattice.numel() / milliseconds(lambda: torch.exp(lattice, out=target))
        # The recursion's columns: a fixed cost each, and one per state.
        narrow, wide = (self._recursion(states) for states in (2, 200))
        self.per_state = (wide - narrow) / (8 * 198)
        self.per_column = narrow - 8 * 2 * self.per_state

    def _recursion(self, states: int) -> float:
        """Milliseconds per column of 8 utterances, forward and backward."""
        frames = 400
        px, py = torch.randn(8, states - 1, frames), torch.randn(8, states, frames)
        total = milliseconds(lambda: mutual_information_recursion(px, py, return_grad=True), runs=5)
        return total / frames


def predict(shape: Shape, rates: Rates) -> dict[str, float]:
    B, T, S, V = shape
    nodes, rows, cells = B * T * S_RANGE, B * (T + S + 1), B * T * (S + 1)
    columns = T + S
    return {
        # Forward and the two gradients of W x: three products each.
        "projections": 6 * rows * WIDTH * (V + WIDTH) / rates.products,
        "joiner_products": 6 * nodes * WIDTH * V / rates.products,
        # Picked, summed, tanh twice over (an output pass of the logistic among four); tanh', two sums.
        "hidden_units": nodes * WIDTH * (2 / rates.sigmoid + 14 / rates.in_cache),
        # Log-softmax, softmax; scaled, copied, summed over nodes.
        "logits": nodes * V * (2 / rates.softmax + 3 / rates.in_cache),
        "simple_products": 6 * cells * V / rates.products,
        # exp of both inputs, six passes over their tensors, about 25 over the lattice.
        "simple_passes": rows * V / rates.exp + (6 * rows * V + 25 * cells) / rates.in_lattice,
        "recursions": columns * (3 * rates.per_column + (B * (S + 1) + B * S_RANGE) * rates.per_state),
    }


def measure() -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    rates, rows = Rates(), []
    for shape in SHAPES:
        parts = predict(shape, rates)
        step = candidate("kdasr", "whole", Inputs(*shape, Linear))
        measured = milliseconds(step, runs=5)
        total = sum(parts.values())
        rows.append(
            {
                "shape": list(shape),
                **parts,
                "predicted_ms": total,
                "measured_ms": measured,
                "ratio": measured / total,
            }
        )
    return rows


if __name__ == "__main__":
    run_benchmark("Cost model of the whole loss, ms, one thread", measure, "exp/bench/loss_cost_model.json")
