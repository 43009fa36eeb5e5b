"""Shared by the benchmarks: interleaved timing of two candidates, and where results go."""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdasr.common.files import write_json


def paired_ratio(ours: Callable[[], object], theirs: Callable[[], object], runs: int = 7) -> dict[str, float]:
    """Median milliseconds of both, measured in turn, and the median of the ratios pair by pair.

    Taking turns keeps the ratio honest when the machine's speed drifts. One warm-up each is not counted.
    """
    ours(), theirs()
    pairs = [(_milliseconds(ours), _milliseconds(theirs)) for _ in range(runs)]
    return {
        "ours_ms": statistics.median(a for a, _ in pairs),
        "theirs_ms": statistics.median(b for _, b in pairs),
        "time_ratio": statistics.median(a / b for a, b in pairs),
    }


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


def run_benchmark(description: str, measure: Callable[[], list[dict[str, Any]]], default_out: str) -> None:
    """Parse `--out`, measure, print a line per row and write all rows as JSON."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(default_out), help="JSON file with every ratio")
    out = parser.parse_args().out
    rows = measure()
    print(description)
    for row in rows:
        print(
            "  " + "  ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        )
    write_json(out, rows)
    print(f"written to {out}")
