"""Pruned RNN-T loss against its peers, time and peak memory: `make bench-loss`.

Every candidate runs in a process of its own (`loss_candidates.py`), one thread; they take turns, so that a
drifting machine moves both sides. Peers: fast_rnnt (the k2 authors' standalone loss), k2 itself under the
torch that it was built for, and torchaudio's unpruned loss where its logits fit.
"""

import sys
from pathlib import Path
from typing import Any

from benchmarking import compare_processes, require, run_benchmark

SHAPES = [(30, 100, 25, 500), (16, 400, 100, 500), (8, 1000, 250, 500)]
PEERS = [
    ("fast_rnnt", "whole"),
    ("fast_rnnt", "pruned"),
    ("k2", "whole"),
    ("k2", "pruned"),
    ("torchaudio", "whole"),
]
RUNS = {"fast_rnnt": 9}
"""Pairs of passes that are timed; 3 for the other peers, which are slow."""
FAST_RNNT = Path("build/fast_rnnt")
K2_PYTHON = Path(".venv-k2/bin/python")
LARGEST_LATTICE = 1 << 30
"""Bytes of the unpruned lattice's logits beyond which the unpruned peer is left out: it needs several."""

Shape = tuple[int, int, int, int]


def command(name: str, what: str, shape: Shape) -> list[str]:
    python = str(K2_PYTHON) if name == "k2" else sys.executable
    return [python, str(Path(__file__).with_name("loss_candidates.py")), name, what, *map(str, shape)]


def compare(shape: Shape, what: str, ours: str, theirs: str) -> dict[str, Any]:
    row = {"shape": list(shape), "against": theirs, "what": what, "ours": ours}
    commands = (command(name, what, shape) for name in (ours, theirs))
    return row | compare_processes(*commands, runs=RUNS.get(theirs, 3))


def fits(shape: Shape, peer: str) -> bool:
    B, T, S, V = shape
    return peer != "torchaudio" or 4 * B * T * (S + 1) * V <= LARGEST_LATTICE


def measure() -> list[dict[str, Any]]:
    require(FAST_RNNT, made_by="python tools/build_fast_rnnt.py")
    peers = [(name, what) for name, what in PEERS if name != "k2" or K2_PYTHON.exists()]
    rows = [
        compare(shape, what, "kdasr", name) for shape in SHAPES for name, what in peers if fits(shape, name)
    ]
    return rows + [compare(shape, "whole", "kdasr-no-logits-kept", "fast_rnnt") for shape in SHAPES]


if __name__ == "__main__":
    run_benchmark(
        "Pruned RNN-T, forward + backward, one thread, (B, T, S, V), s_range 5, joiner 512 wide",
        measure,
        "exp/bench/loss.json",
    )
