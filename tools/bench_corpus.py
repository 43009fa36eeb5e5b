"""Speed of the synthetic corpus on one core, noise, reverberation and writing included, against real time."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarking import run_benchmark


def measure() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "kdasr",
            "corpus",
            "synthetic",
            "--size",
            "demo",
            "--out",
            folder,
            "--seed",
            "7",
            "--jobs",
            "1",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        elapsed = time.perf_counter() - start
        hours = json.loads((Path(folder) / "corpus.json").read_text())["seconds"] / 3600
    return [{"audio_hours": hours, "seconds": elapsed, "times_real_time": 3600 * hours / elapsed}]


if __name__ == "__main__":
    run_benchmark("Synthetic corpus, demo size, one job, start-up included", measure, "exp/bench/corpus.json")
