"""How training data scale: start, memory and speed at 1e4, 1e6 and 15e6 cuts, against Lhotse's own sampler.

A data folder of each size is generated (1.2 GB at 15e6 cuts): the lines of a manifest, all of 64 audio files,
with the index that `kdasr prepare` makes and the counts that `kdasr tokens` makes. Then, each in a process of
its own:

- start: from the start of Python to the first batch of two loader workers, at the begin of an epoch and in
  its middle; peak memory of the process after up to 100 pools from all over an epoch have been planned, and
  what its workers have of their own.
- rates: utterances per second of one process, from the plan to features computed from audio, in turns with
  the same batches' maker behind plain Lhotse: `DynamicBucketingSampler` over the lazily opened manifest.

`make bench-data` takes about ten minutes of one core; ARGS="--sizes 10000,1000000" leaves the last size out.
Where other programs use the processor, its seconds tell more than those of the clock: both are printed.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from benchmarking import run_tool
from lhotse import CutSet
from lhotse.dataset import DynamicBucketingSampler

from kdasr.common.files import write_json
from kdasr.data.batch import Batch
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.blocks import BlockWriter, find_blocks
from kdasr.data.cut_index import IndexWriter, PartIndex
from kdasr.data.cut_table import speaker_number
from kdasr.data.data_config import DataConfig
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import RECORD, VERSION, cuts_path
from kdasr.data.index_folder import open_parts
from kdasr.data.loader import TrainLoader
from kdasr.data.loading import on_the_fly
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import count_pieces
from kdasr.testing import random_text, tiny_tokenizer, tone

PART = "train"
NUM_FILES, NUM_SPEAKERS, NUM_TEXTS = 64, 5000, 1000
SECONDS = 20.0
"""Of speech in a batch: few utterances, so that planning and reading weigh as much as they can."""


def generate(folder: Path, count: int) -> None:
    """Write a data folder of so many cuts, unless it is there."""
    if (folder / RECORD).is_file():
        return
    begun = time.perf_counter()
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).integers(SAMPLE_RATE, 8 * SAMPLE_RATE, NUM_FILES).tolist()
    for number, length in enumerate(samples):
        wave = tone(length / SAMPLE_RATE, seed=number)
        soundfile.write(folder / "audio" / f"{number}.flac", wave, SAMPLE_RATE)
    texts = [random_text(2 + seed % 3, seed) for seed in range(NUM_TEXTS)]
    tokenizer = tiny_tokenizer(folder / "tokens")
    counts = np.array([count_pieces(text, tokenizer) for text in texts], np.uint16)
    index = PartIndex(folder, PART, folder / "index" / PART, {"cuts": count})
    index.folder.mkdir(parents=True, exist_ok=True)
    rows = IndexWriter(index.folder)
    names = [f"speaker-{number}" for number in range(NUM_SPEAKERS)]
    speakers = [speaker_number(name) for name in names]
    path = cuts_path(folder, PART)
    with path.open("wb") as file:
        lines = BlockWriter(file, level=1)
        for number in range(count):
            audio, speaker = number % NUM_FILES, number % NUM_SPEAKERS
            text, length = texts[number % NUM_TEXTS], samples[audio]
            name = f"recording-{number:09d}"
            lines.add(_line(name, audio, length, text, names[speaker]))
            rows.add_values(name, repr((name, length, text, [])), (length, speakers[speaker], 1.0, 0))
        lines.close()
    blocks = find_blocks(path)
    assert blocks is not None
    rows.close(path, blocks, is_copy=False)
    np.save(index.pieces_path(tokenizer), counts[np.arange(count) % NUM_TEXTS])
    write_json(folder / RECORD, {"version": VERSION, "parts": {PART: {"settings": {}}}})
    print(f"{count} cuts generated in {time.perf_counter() - begun:.0f} s", flush=True)


def _line(name: str, audio: int, length: int, text: str, speaker: str) -> bytes:
    """A cut as `kdasr prepare` writes it."""
    place = f'"start": 0.0, "duration": {length / SAMPLE_RATE}, "channel": 0'
    source = f'{{"type": "file", "channels": [0], "source": "audio/{audio}.flac"}}'
    return (
        f'{{"id": "{name}", {place}, "supervisions": [{{"id": "{name}", "recording_id": "{name}", {place}, '
        f'"text": "{text}", "speaker": "{speaker}"}}], "recording": {{"id": "{name}", "sources": [{source}], '
        f'"sampling_rate": {SAMPLE_RATE}, "num_samples": {length}, "duration": {length / SAMPLE_RATE}, '
        '"channel_ids": [0]}, "custom": {"speed": 1.0}, "type": "MonoCut"}\n'
    ).encode()


def _config(**changes: Any) -> DataConfig:
    return DataConfig(max_duration=SECONDS, num_buckets=20, on_the_fly=True, **changes)


def _loader(folder: Path, num_workers: int = 0) -> TrainLoader:
    table = open_parts(folder, [PART])
    return TrainLoader(table, Tokenizer.load(folder / "tokens"), _config(num_workers=num_workers), seed=1)


def start(folder: Path, begun: float, part_of_epoch: float) -> dict[str, float]:
    """Seconds from the start of Python to the first batch, at the begin of an epoch or within it."""
    loader = _loader(folder, num_workers=2)
    if part_of_epoch:
        pool = int(part_of_epoch * loader.planner.num_pools)
        loader.load_state_dict({**loader.state_dict(), "pool": pool, "offset": 3})
    next(loader)
    seconds, cpu = time.time() - begun, time.process_time()
    first = _peak_mb()
    workers = [_own_mb(int(child)) for child in _children()]
    pools = range(0, loader.planner.num_pools, max(1, loader.planner.num_pools // 100))
    planning = time.perf_counter()
    for pool in pools:
        loader.planner.batches(0, pool, 1)
    return {
        "start_s": seconds,
        "cpu_s": cpu,
        "peak_mb": _peak_mb(),
        "first_mb": first,
        "worker_mb": max(workers),
        "pools": len(pools),
        "planning_s": time.perf_counter() - planning,
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def _own_mb(process: int) -> float:
    """Memory that a process has for itself alone."""
    rows = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith("Private_")) / 1024


def rates(folder: Path, rounds: int = 5, batches: int = 8) -> dict[str, float]:
    """Utterances per second of one process, ours and Lhotse's in turns, with features and without."""
    loader, tokenizer = _loader(folder), Tokenizer.load(folder / "tokens")
    os.chdir(folder)  # the manifest's paths are relative
    maker = BatchMaker(on_the_fly(None), tokenizer, config=_config(), seed=(1,))
    cuts = CutSet.from_jsonl_lazy(cuts_path(Path(), PART))
    sampler = DynamicBucketingSampler(cuts, max_duration=SECONDS, num_buckets=20, shuffle=True, seed=1)
    theirs, plans = iter(sampler), _loader(Path()).plans()

    def lhotse_batches() -> Iterator[Batch]:
        for number, some in enumerate(theirs):
            yield maker[BatchPlan(0, number, some)][2]

    made = {"ours": iter(loader), "lhotse": lhotse_batches()}
    planned = {"ours": (plan.cuts for plan in plans), "lhotse": theirs}
    pairs: dict[str, list[dict[str, float]]] = {"made": [], "planned": []}
    for stage, streams, number in (("made", made, batches), ("planned", planned, 10 * batches)):
        for one in range(rounds + 1):
            pair = {}
            for name, stream in streams.items():
                begun = time.perf_counter()
                count = sum(len(batch) for batch in islice(stream, number))
                pair[name] = count / (time.perf_counter() - begun)
            if one:  # the first fills buffers
                pairs[stage].append(pair)
    found = {}
    for stage, measured in pairs.items():
        found[f"{stage}_per_s"] = statistics.median(pair["ours"] for pair in measured)
        found[f"{stage}_ratio"] = statistics.median(pair["ours"] / pair["lhotse"] for pair in measured)
    return found


def _child(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def measure(folder: Path, count: int) -> dict[str, float]:
    """The row of one size; the rest is printed."""
    _child("generate", folder, count)
    begun = _child("start", folder, time.time(), 0.0)
    resumed = _child("start", folder, time.time(), 0.5)
    speed = _child("rates", folder)
    print(
        f"{count} cuts: {begun['start_s']:.1f} s to the first batch ({begun['cpu_s']:.1f} s of the "
        f"processor), {resumed['start_s']:.1f} s ({resumed['cpu_s']:.1f} s) from the middle of an epoch; "
        f"{begun['first_mb']:.0f} MB then, {begun['peak_mb']:.0f} MB after "
        f"{begun['pools']:.0f} pools from all over an epoch were planned in {begun['planning_s']:.0f} s, "
        f"{begun['worker_mb']:.0f} MB of a worker's own; {speed['made_per_s']:.0f} utterances per second "
        f"with features, {speed['planned_per_s']:.0f} without, {speed['made_ratio']:.2f} and "
        f"{speed['planned_ratio']:.2f} times as many as behind Lhotse's sampler",
        flush=True,
    )
    return {
        "cuts": count,
        "start_s": round(begun["start_s"], 2),
        "peak_mb": round(begun["peak_mb"], 1),
        "samples_per_s": round(speed["made_per_s"], 1),
        "ratio_to_lhotse": round(speed["made_ratio"], 3),
    }


def main() -> None:
    """Measure all sizes, or do the part of one that a child process is for."""
    if len(sys.argv) > 1 and not sys.argv[1].startswith("--"):
        what, folder, *rest = sys.argv[1:]
        if what == "generate":
            generate(Path(folder), int(rest[0]))
            found: dict[str, float] = {}
        elif what == "start":
            found = start(Path(folder), *map(float, rest))
        else:
            found = rates(Path(folder).resolve())
        print(json.dumps(found), flush=True)
        os._exit(0)  # not waiting for workers that have read ahead
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", default="10000,1000000,15000000", help="numbers of cuts, with commas between"
    )
    parser.add_argument("--folder", type=Path, default=Path("exp/bench/data"), help="for the data folders")
    parser.add_argument("--out", type=Path, default=Path("exp/bench/data.json"))
    options = parser.parse_args()
    rows = [measure(options.folder / size, int(float(size))) for size in options.sizes.split(",")]
    write_json(options.out, rows)
    print(f"written to {options.out}")


if __name__ == "__main__":
    run_tool(main)
