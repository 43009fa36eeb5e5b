"""k2's own numbers, as `tools/write_k2_golden.py` wrote them where k2 runs: values, gradients, ranges."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kdasr.losses import pruned_rnnt

GOLDEN = json.loads((Path(__file__).parent / "k2_golden.json").read_text(encoding="utf-8"))
BATCHES = GOLDEN["batches"]
RANGES = GOLDEN["ranges"]
LOSSES = ("simple", "smoothed", "unpruned", "pruned")
TOLERANCES = {torch.float64: {"rtol": 0.0, "atol": 2e-10}, torch.float32: {"rtol": 2e-6, "atol": 5e-6}}


def numbers(values: Any, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of nested lists, in which infinity is a string."""

    def parsed(x: Any) -> Any:
        return [parsed(y) for y in x] if isinstance(x, list) else float(x)

    return torch.tensor(parsed(values), dtype=dtype)


def test_fixture_holds_every_function_and_type() -> None:
    types = {"regular", "modified", "constrained"}
    assert {name.split()[0] for name in BATCHES} == set(RANGES) == types
    assert all(set(batch) == set(LOSSES) for batch in BATCHES.values())
    assert any("inf" in batch["simple"]["loss"] for batch in BATCHES.values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", BATCHES)
def test_losses_and_gradients(name: str, loss: str, dtype: torch.dtype) -> None:
    case = BATCHES[name][loss]
    tolerance = TOLERANCES[dtype]
    leaves = {key: numbers(x, dtype).requires_grad_() for key, x in case["inputs"].items()}
    others = {key: torch.tensor(x) for key, x in case["others"].items()}
    extra = {"return_grad": True} if case["occupations"] else {}
    function = getattr(pruned_rnnt, case["function"])
    result = function(**leaves, **others, **case["options"], **extra, reduction="none")
    values, occupations = result if case["occupations"] else (result, ())
    torch.testing.assert_close(values, numbers(case["loss"], dtype), **tolerance)
    # Ours includes the infinite losses, which contribute nothing; k2's sum leaves them out.
    values.sum().backward()
    for key, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, numbers(case["gradients"][key], dtype), **tolerance)
    for ours, theirs in zip(occupations, case["occupations"], strict=True):
        torch.testing.assert_close(ours, numbers(theirs, dtype), **tolerance)


@pytest.mark.parametrize("rnnt_type", RANGES)
def test_prune_ranges(rnnt_type: str) -> None:
    case = RANGES[rnnt_type]
    px_grad, py_grad = (torch.tensor(case[key]) / 8 for key in ("px_grad", "py_grad"))
    for s_range, theirs in case["s_range"].items():
        ranges = pruned_rnnt.get_rnnt_prune_ranges(
            px_grad, py_grad, torch.tensor(case["boundary"]), int(s_range)
        )
        assert ranges.tolist() == theirs
