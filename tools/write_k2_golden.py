"""Writes what k2 computes for a few small batches: `tests/losses/k2_golden.json`.

    make test-k2 && .venv-k2/bin/python tools/write_k2_golden.py tests/losses/k2_golden.json

Runs where k2 does (`make test-k2` makes that environment) and without kdasr. Everything is computed in
float64 from inputs that are multiples of 1/8 and so written exactly; results are rounded to ten decimals. An
utterance without any path has the loss "inf", and takes no part in the sum whose gradients are written.

Shapes: B utterances, S symbols, T frames, K states of a pruned band, V classes.
"""

import argparse
import importlib.metadata
import json
import math
from pathlib import Path
from typing import Any

import k2
import torch
from torch import Tensor

BLANK = 1
CLASSES = 4
RNNT_TYPES = ("regular", "modified", "constrained")
SIZES = {
    # Symbols and frames of each utterance; None: no boundary is given.
    "whole": None,
    # The last one has more symbols than frames: possible in the regular lattice alone.
    "ragged": [[3, 5], [1, 4], [0, 3], [3, 2]],
}


def scores(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 8).round() / 8 + 0.0  # no -0.0


def plain(values: Any) -> Any:
    """Nested lists that JSON can hold."""
    if isinstance(values, list):
        return [plain(x) for x in values]
    if isinstance(values, float):
        return round(values, 10) if math.isfinite(values) else str(values)
    return values


def evaluate(function: str, inputs: dict[str, Tensor], others: dict[str, Tensor], options: dict) -> dict:
    """One case: the call's arguments, each utterance's loss, gradients, occupations where k2 gives them."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    returns_occupations = function in ("rnnt_loss_simple", "rnnt_loss_smoothed")
    extra = {"return_grad": True} if returns_occupations else {}
    result = getattr(k2, function)(**leaves, **others, **options, reduction="none", **extra)
    loss, occupations = result if returns_occupations else (result, ())
    possible = loss.isfinite()
    loss[possible].sum().backward()
    return {
        "function": function,
        "inputs": {name: plain(x.tolist()) for name, x in inputs.items()},
        "others": {name: x.tolist() for name, x in others.items()},
        "options": options,
        "loss": plain(loss.tolist()),
        "gradients": {name: plain(x.grad.tolist()) for name, x in leaves.items()},
        # What k2 calls occupations of an impossible utterance is of no use.
        "occupations": [plain((x * possible[:, None, None]).tolist()) for x in occupations],
    }


def write_type(rnnt_type: str, name: str) -> dict[str, Any]:
    """Every loss on one batch."""
    sizes = SIZES[name]
    batch, num_symbols, num_frames = (len(sizes), 3, 5) if sizes else (1, 3, 4)
    lm, am = scores(1, batch, num_symbols + 1, CLASSES), scores(2, batch, num_frames, CLASSES)
    generator = torch.Generator().manual_seed(3)
    others = {"symbols": torch.randint(CLASSES, (batch, num_symbols), generator=generator)}
    whole = torch.tensor([[0, 0, num_symbols, num_frames]])
    boundary = torch.tensor([[0, 0, *row] for row in sizes]) if sizes else whole
    if sizes:
        others["boundary"] = boundary
    options = {
        "termination_symbol": BLANK,
        "rnnt_type": rnnt_type,
        "delay_penalty": 0.125 if sizes else 0.25,
    }
    _, grads = k2.rnnt_loss_simple(lm=lm, am=am, **others, **options, return_grad=True)
    ranges = k2.get_rnnt_prune_ranges(*grads, boundary, 2)
    pruned = {"logits": scores(5, *ranges.shape, CLASSES)}
    smoothing = {"lm_only_scale": 0.25, "am_only_scale": 0.125 if sizes else 0.0}
    joint = {"logits": scores(4, batch, num_frames, num_symbols + 1, CLASSES)}
    trivial = {"lm": lm, "am": am}
    return {
        "simple": evaluate("rnnt_loss_simple", trivial, others, options),
        "smoothed": evaluate("rnnt_loss_smoothed", trivial, others, options | smoothing),
        "unpruned": evaluate("rnnt_loss", joint, others, options),
        "pruned": evaluate("rnnt_loss_pruned", pruned, others | {"ranges": ranges}, options),
    }


def write_ranges(rnnt_type: str) -> dict[str, Any]:
    """Prune ranges of numbers that jump about, with ties, and whose sums are exact."""
    generator = torch.Generator().manual_seed(6)
    batch, num_symbols, num_frames = 3, 7, 10
    px_grad = torch.randint(
        9, (batch, num_symbols, num_frames + (rnnt_type == "regular")), generator=generator
    )
    py_grad = torch.randint(9, (batch, num_symbols + 1, num_frames), generator=generator)
    boundary = torch.tensor([[0, 0, 7, 10], [0, 0, 3, 10], [0, 0, 6, 7]])
    return {
        "px_grad": px_grad.tolist(),
        "py_grad": py_grad.tolist(),
        "boundary": boundary.tolist(),
        "s_range": {
            str(s_range): k2.get_rnnt_prune_ranges(px_grad / 8, py_grad / 8, boundary, s_range).tolist()
            for s_range in (2, 3, 4, 20)
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    path = parser.parse_args().out
    golden = {
        "versions": {name: importlib.metadata.version(name) for name in ("k2", "torch", "numpy")},
        "dtype": "float64",
        "batches": {f"{t} {name}": write_type(t, name) for t in RNNT_TYPES for name in SIZES},
        "ranges": {rnnt_type: write_ranges(rnnt_type) for rnnt_type in RNNT_TYPES},
    }
    lines = json.dumps(golden, separators=(",", ":"), allow_nan=False)
    # One line per case, so that a change shows where it is.
    path.write_text(lines.replace('},"', '},\n"') + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size} bytes, {golden['versions']}")


if __name__ == "__main__":
    main()
