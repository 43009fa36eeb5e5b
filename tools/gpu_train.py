"""`kdasr` with the memory that it took on the GPU: `python tools/gpu_train.py RESULT.json train ...`."""

import sys
import time
from pathlib import Path

import torch
from benchmarking import run_tool

from kdasr.cli.main import cli
from kdasr.common.files import write_json
from kdasr.common.ranks import Ranks


def main() -> None:
    """Run the command; then write the seconds, the peak memory in MiB, and the device."""
    result, started = Path(sys.argv[1]), time.perf_counter()
    cli(sys.argv[2:], standalone_mode=False)
    if Ranks.of_environment().is_first:
        seconds = time.perf_counter() - started
        peak_mib = torch.cuda.max_memory_allocated() / 2**20
        device = torch.cuda.get_device_name()
        write_json(result, {"seconds": seconds, "peak_mib": peak_mib, "device": device})


if __name__ == "__main__":
    run_tool(main)
