"""Prune ranges are k2's, integer for integer, on the same occupations."""

import k2
import pytest
import torch
from random_lattices import RNNT_TYPES, SEEDS, Case, make_case
from torch import Tensor

from kdasr.losses import pruned_rnnt


def occupations(case: Case) -> list[Tensor]:
    """Of k2's simple loss, rounded so that every sum of them is exact.

    Two windows of states often hold the same mass. Which one wins must not hang on the order of additions,
    and among equals both sides have to take the first.
    """
    _, grads = k2.rnnt_loss_simple(am=case.am, lm=case.lm, **case.common, return_grad=True)
    return [(x * 2**12).round() / 2**12 for x in grads]


def raised(s_range: int, case: Case) -> int:
    """The range that the native function takes: wide enough for a path, as in k2 since 1.24.

    A regular utterance with more symbols than frames has to climb several states a frame; k2 1.23.4 does not
    look after that.
    """
    if case.rnnt_type != "regular":
        return s_range
    sizes = [row[2:] for row in case.filled_boundary.tolist()]
    return max([s_range, *(int((s - 1) / max(t, 1)) + 2 for s, t in sizes)])


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_of_occupations(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type)
    grads = [x.to(dtype) for x in occupations(case)]
    for s_range in {1 if rnnt_type != "regular" else 2, 2, 3, case.s_range}:
        native = pruned_rnnt.get_rnnt_prune_ranges(*grads, case.filled_boundary, s_range)
        theirs = k2.get_rnnt_prune_ranges(*grads, case.filled_boundary, raised(s_range, case))
        assert native.dtype == theirs.dtype == torch.int64
        assert torch.equal(native, theirs), (s_range, case.filled_boundary, native, theirs)


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_ranges_of_any_numbers(seed: int, rnnt_type: str) -> None:
    """Not only what a lattice can give: windows that jump back and forth, and many ties."""
    case = make_case(seed, rnnt_type)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randint(4, x.shape, generator=generator) / 4.0 for x in occupations(case)]
    native = pruned_rnnt.get_rnnt_prune_ranges(*grads, case.filled_boundary, case.s_range)
    theirs = k2.get_rnnt_prune_ranges(*grads, case.filled_boundary, raised(case.s_range, case))
    assert torch.equal(native, theirs)


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", range(40))
def test_more_symbols_than_frames(seed: int, rnnt_type: str) -> None:
    """k2 asks for T >= S: it gets frames appended, which no utterance reaches."""
    num_frames = 1 + seed % 4
    num_symbols = num_frames + 1 + seed % 3
    case = make_case(seed, rnnt_type, (num_symbols, num_frames))
    generator = torch.Generator().manual_seed(seed)
    regular = rnnt_type == "regular"

    def random_grads(rows: int, columns: int) -> Tensor:
        return torch.randint(4, (len(case.am), rows, columns), generator=generator) / 4.0

    px_grad = random_grads(num_symbols, num_frames + regular)
    py_grad = random_grads(num_symbols + 1, num_frames)
    missing = num_symbols - num_frames
    longer = (
        torch.cat((px_grad, random_grads(num_symbols, missing)), 2),
        torch.cat((py_grad, random_grads(num_symbols + 1, missing)), 2),
    )
    with pytest.raises(AssertionError):
        k2.get_rnnt_prune_ranges(px_grad, py_grad, case.filled_boundary, case.s_range)
    theirs = k2.get_rnnt_prune_ranges(*longer, case.filled_boundary, raised(case.s_range, case))
    native = pruned_rnnt.get_rnnt_prune_ranges(px_grad, py_grad, case.filled_boundary, case.s_range)
    assert torch.equal(native, theirs[:, :num_frames])


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_all_empty_transcripts(rnnt_type: str) -> None:
    """k2 refuses; the only state is kept."""
    boundary = torch.tensor([[0, 0, 0, 3], [0, 0, 0, 2]])
    px_grad = torch.zeros(2, 0, 4 if rnnt_type == "regular" else 3)
    with pytest.raises(AssertionError):
        k2.get_rnnt_prune_ranges(px_grad, torch.ones(2, 1, 3), boundary, 2)
    native = pruned_rnnt.get_rnnt_prune_ranges(px_grad, torch.ones(2, 1, 3), boundary, 2)
    assert torch.equal(native, torch.zeros(2, 3, 1, dtype=torch.int64))
