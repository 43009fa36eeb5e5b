"""Search alone, without the encoder: beam search against greedy search on the same encoded frames.

    python tools/bench_search.py [EXP] [--out exp/bench/search.json]

Frames come from random audio; a real system (EXP) hears little in it, the random one that stands in emits a
piece in one of six frames. One thread, chunks of 8 frames.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarking import paired_ratio, print_rows, require, run_tool
from stream_memory import SAMPLE_RATE, noise, random_parts
from torch import Tensor

from kdasr.bundle import load_bundle
from kdasr.common.files import write_json
from kdasr.decoding.search import BeamOptions, GreedyOptions, Search, build_search
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizable import Recognizable

# Shapes: B streams, T frames, D encoder width.

CHUNK = 8
SECONDS = 10.0


@torch.inference_mode()
def encoded_noise(bundle: Recognizable, batch: int) -> Tensor:
    """Encoded random audio (B, T, D)."""
    geometry = bundle.model.geometry
    features = [
        torch.from_numpy(whole_features(SAMPLE_RATE, noise(SECONDS, seed), geometry)) for seed in range(batch)
    ]
    lens_B = torch.tensor([len(frames) for frames in features])
    return bundle.model.eval().encode(torch.stack(features), lens_B, bundle.context).encoded_BTD


def searcher(search: Search, encoded_BTD: Tensor) -> Callable[[], None]:
    """Searches all frames of all streams, chunk by chunk."""
    lens_B = torch.full((len(encoded_BTD),), CHUNK)

    def run() -> None:
        states = [search.initial_state() for _ in encoded_BTD]
        for start in range(0, encoded_BTD.shape[1] - CHUNK + 1, CHUNK):
            states = search.advance(encoded_BTD[:, start : start + CHUNK], lens_B, states)

    return run


def measure(bundle: Recognizable) -> list[dict[str, Any]]:
    """A row per beam and number of streams; times are per frame of all streams."""
    rows = []
    for batch in (1, 8, 64):
        encoded_BTD = encoded_noise(bundle, batch)
        greedy = searcher(build_search(bundle.model, GreedyOptions()), encoded_BTD)
        for beam in (4, 8):
            search = build_search(bundle.model, BeamOptions(beam=beam))
            row = paired_ratio(searcher(search, encoded_BTD), greedy)
            frames = encoded_BTD.shape[1] // CHUNK * CHUNK
            rows.append(
                {
                    "streams": batch,
                    "beam": beam,
                    "beam_us_per_frame": 1000 * row["ours_ms"] / frames,
                    "greedy_us_per_frame": 1000 * row["theirs_ms"] / frames,
                    "time_ratio": row["time_ratio"],
                }
            )
    return rows


def main() -> None:
    """Measure one system, or the random one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("exp", type=Path, nargs="?", help="an experiment folder; default: random weights")
    parser.add_argument("--out", type=Path, default=Path("exp/bench/search.json"))
    arguments = parser.parse_args()
    if arguments.exp:
        require(arguments.exp)
    torch.set_num_threads(1)
    print(__doc__.split("\n")[0])
    result = measure(load_bundle(arguments.exp) if arguments.exp else random_parts())
    print_rows(result)
    write_json(arguments.out, result)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    run_tool(main)
