"""The native losses against k2 itself: values and gradients on random lattices."""

from functools import partial
from types import ModuleType

import k2
import pytest
import torch
from random_lattices import RNNT_TYPES, SEEDS, TOLERANCES, Case, assert_same_loss, make_case
from torch import Tensor

from kdasr.losses import pruned_rnnt

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
EVERY_TYPE = pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
EVERY_SEED = pytest.mark.parametrize("seed", SEEDS)


def smoothing(seed: int) -> dict[str, float]:
    lm_scale, am_scale = [(0.25, 0.0), (0.1, 0.1), (0.0, 0.3), (0.0, 0.0)][seed % 4]
    return {"lm_only_scale": lm_scale, "am_only_scale": am_scale}


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_simple(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type).to(dtype)

    def loss(library: ModuleType, am: Tensor, lm: Tensor) -> Tensor:
        return library.rnnt_loss_simple(am=am, lm=lm, **case.common, reduction="none")

    assert_same_loss(partial(loss, k2), partial(loss, pruned_rnnt), (case.am, case.lm), case.weights_B)


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_smoothed(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type).to(dtype)

    def loss(library: ModuleType, am: Tensor, lm: Tensor) -> Tensor:
        return library.rnnt_loss_smoothed(am=am, lm=lm, **case.common, **smoothing(seed), reduction="none")

    assert_same_loss(partial(loss, k2), partial(loss, pruned_rnnt), (case.am, case.lm), case.weights_B)


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_unpruned(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type).to(dtype)

    def loss(library: ModuleType, logits: Tensor) -> Tensor:
        return library.rnnt_loss(logits, **case.common, reduction="none")

    assert_same_loss(partial(loss, k2), partial(loss, pruned_rnnt), (case.logits,), case.weights_B)


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_pruned(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    """From encoder and predictor through k2's ranges, each side's own pruning and a joiner."""
    case = make_case(seed, rnnt_type).to(dtype)
    ranges = k2_ranges(case)

    def loss(library: ModuleType, am: Tensor, lm: Tensor) -> Tensor:
        pruned_am, pruned_lm = library.do_rnnt_pruning(am=am, lm=lm, ranges=ranges)
        return library.rnnt_loss_pruned(
            3 * torch.tanh(pruned_am + pruned_lm), ranges=ranges, **case.common, reduction="none"
        )

    assert_same_loss(partial(loss, k2), partial(loss, pruned_rnnt), (case.am, case.lm), case.weights_B)


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_pruned_gradient_of_the_logits(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type).to(dtype)
    ranges = k2_ranges(case)
    logits = 3 * torch.tanh(sum(k2.do_rnnt_pruning(am=case.am, lm=case.lm, ranges=ranges)))

    def loss(library: ModuleType, logits: Tensor) -> Tensor:
        return library.rnnt_loss_pruned(logits, ranges=ranges, **case.common, reduction="none")

    assert_same_loss(partial(loss, k2), partial(loss, pruned_rnnt), (logits,), case.weights_B)


def k2_ranges(case: Case) -> Tensor:
    _, grads = k2.rnnt_loss_simple(am=case.am, lm=case.lm, **case.common, return_grad=True)
    return k2.get_rnnt_prune_ranges(*grads, case.filled_boundary, case.s_range)


@EVERY_TYPE
@DTYPES
@EVERY_SEED
def test_recursion_and_occupations(seed: int, dtype: torch.dtype, rnnt_type: str) -> None:
    """The recursion itself, which k2 also evaluates for S = 0, S > T and begins other than (0, 0)."""
    generator = torch.Generator().manual_seed(seed)
    batch, num_symbols, num_frames = (int(torch.randint(n, (), generator=generator)) for n in (4, 11, 12))
    batch, num_frames = batch + 1, num_frames + 1
    regular = rnnt_type == "regular"
    px = torch.randn(batch, num_symbols, num_frames + regular, generator=generator, dtype=torch.float64)
    py = torch.randn(batch, num_symbols + 1, num_frames, generator=generator, dtype=torch.float64)
    corners = [torch.randint(n + 1, (batch, 2), generator=generator) for n in (num_symbols, num_frames)]
    boundary = torch.stack([x.sort(dim=1).values for x in corners], dim=2).flatten(1)
    if regular:
        px[torch.arange(batch), :, boundary[:, 3]] = -torch.inf

    px, py = px.to(dtype), py.to(dtype)
    k2s, k2_grads = k2.mutual_information_recursion(px, py, boundary, return_grad=True)
    native, grads = pruned_rnnt.mutual_information_recursion(px, py, boundary, return_grad=True)
    torch.testing.assert_close(native, k2s, **TOLERANCES[dtype])
    possible = k2s.isfinite()
    for ours, theirs in zip(grads, k2_grads, strict=True):
        torch.testing.assert_close(ours[possible], theirs[possible], **TOLERANCES[dtype])
        assert not ours[~possible].any()


@EVERY_TYPE
@EVERY_SEED
def test_occupations_of_the_simple_losses(seed: int, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type)
    for name, extra in (("rnnt_loss_simple", {}), ("rnnt_loss_smoothed", smoothing(seed))):
        arguments = {"am": case.am, "lm": case.lm, **case.common, **extra}
        each, k2_grads = getattr(k2, name)(**arguments, reduction="none", return_grad=True)
        _, grads = getattr(pruned_rnnt, name)(**arguments, reduction="none", return_grad=True)
        for ours, theirs in zip(grads, k2_grads, strict=True):
            assert ours.shape == theirs.shape
            torch.testing.assert_close(
                ours[each.isfinite()], theirs[each.isfinite()], **TOLERANCES[torch.float64]
            )


@EVERY_TYPE
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(20))
def test_reductions(seed: int, reduction: str, rnnt_type: str) -> None:
    case = make_case(seed, rnnt_type)
    ranges = k2_ranges(case)
    logits = sum(k2.do_rnnt_pruning(am=case.am, lm=case.lm, ranges=ranges))
    scores = {"am": case.am, "lm": case.lm}
    for name, arguments in {
        "rnnt_loss_simple": scores,
        "rnnt_loss_smoothed": scores,
        "rnnt_loss": {"logits": case.logits},
        "rnnt_loss_pruned": {"logits": logits, "ranges": ranges},
    }.items():
        ours, theirs = (
            getattr(module, name)(**arguments, **case.common, reduction=reduction)
            for module in (pruned_rnnt, k2)
        )
        torch.testing.assert_close(ours, theirs, **TOLERANCES[torch.float64])
