"""Shared by the tools: errors in one line, timing of two candidates in turns, and where results go."""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts

CONF = Path(__file__).resolve().parents[1] / "egs" / "librispeech" / "conf"
"""The recipes' configurations, from whatever folder a tool is started."""


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool. What its user can mend, or a command that fails, is one line on stderr and status 1."""
    try:
        main()
        return
    except UserError as error:
        message = str(error)
    except subprocess.CalledProcessError as error:
        message = f"`{shlex.join(map(str, error.cmd))}` ended with status {error.returncode}"
    raise SystemExit(f"{Path(sys.argv[0]).name}: error: {message}")


def require(*places: Path, made_by: str = "make demo") -> None:
    """
    Raises:
        UserError: one of these files and folders is not there; names the command that makes it.
    """
    for place in places:
        if not place.exists():
            raise UserError(f"there is no {place}; `{made_by}` makes one")


def paired_ratio(
    ours: Callable[[], Any], theirs: Callable[[], Any], runs: int = 7, measured: bool = False
) -> dict[str, float]:
    """Median milliseconds of both, measured in turn, and the median of the ratios pair by pair.

    Taking turns keeps the ratio honest when the machine's speed drifts. One warm-up each is not counted.
    `measured`: the candidates return their own milliseconds.
    """
    ours(), theirs()
    pairs = [
        (ours(), theirs()) if measured else (_milliseconds(ours), _milliseconds(theirs)) for _ in range(runs)
    ]
    return {
        "ours_ms": statistics.median(a for a, _ in pairs),
        "theirs_ms": statistics.median(b for _, b in pairs),
        "time_ratio": statistics.median(a / b for a, b in pairs),
    }


def _milliseconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return 1000 * (time.perf_counter() - start)


class Worker(AbstractContextManager["Worker"]):
    """A candidate in its own process, waiting for `time` or `memory` on its standard input."""

    def __init__(self, command: list[str], for_memory: bool = False) -> None:
        settings = {"OMP_NUM_THREADS": "1"}
        if for_memory:
            # Freed blocks go back to the system at once: what is resident is what is in use. It costs time.
            settings |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | settings
        )
        self._answer()  # it is ready

    def measure(self, what: str) -> float:
        """Milliseconds of one pass (`time`), or bytes at its peak (`memory`)."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return float(self._answer())

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise subprocess.CalledProcessError(self.process.wait(), self.process.args)
        return answer

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare_processes(ours: list[str], theirs: list[str], runs: int) -> dict[str, float]:
    """Time and peak memory of two candidates, each in its own process; they take turns."""
    our_bytes, their_bytes = (_peak_bytes(command) for command in (ours, theirs))
    with Worker(ours) as a, Worker(theirs) as b:
        times = paired_ratio(lambda: a.measure("time"), lambda: b.measure("time"), runs, measured=True)
    return times | {
        "ours_mib": our_bytes / 2**20,
        "theirs_mib": their_bytes / 2**20,
        "memory_ratio": our_bytes / their_bytes,
    }


def _peak_bytes(command: list[str]) -> float:
    with Worker(command, for_memory=True) as worker:
        return worker.measure("memory")


def run_benchmark(
    description: str,
    measure: Callable[[], Any],
    default_out: str,
    check: Callable[[Any], None] = lambda result: None,
) -> None:
    """Parse `--out`, measure, and write the result as JSON; a list of rows is printed, a line each.

    `check` sees the result once it is written; it may raise `UserError`, which becomes one line and status 1.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(default_out), help="JSON file with every ratio")
    out = parser.parse_args().out

    def run() -> None:
        print(description, flush=True)
        result = measure()
        if isinstance(result, list):
            print_rows(result)
        write_json(out, result)
        print(f"written to {out}", flush=True)
        check(result)

    run_tool(run)


def load_speech(data: Path, seconds: float) -> NDArray[np.float32]:
    """Utterances of a prepared corpus's dev part, one after the other, and again from the first; 16 kHz.

    Raises:
        UserError: there is none.
    """
    require(data)
    found: list[NDArray[np.float32]] = []
    length, count = 0, round(seconds * SAMPLE_RATE)
    for cut in cycle(load_cuts(data, "dev-clean")):
        found.append(np.asarray(cut.load_audio()[0], dtype=np.float32))
        length += len(found[-1])
        if length >= count:
            break
    return np.concatenate(found)[:count]


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A line per row, `name=value`."""
    for row in rows:
        cells = (f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())
        print("  " + "  ".join(cells))
