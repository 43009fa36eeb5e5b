"""What k2 1.23.4 refuses or leaves undefined, and what the native functions make of it.

k2 asserts 1 <= S <= T on the tensors of a batch, though not on its utterances: a boundary may hold S = 0 or
S > T. So k2 itself tells what the refused batches cost, once they are padded.
"""

import k2
import pytest
import torch
from random_lattices import RNNT_TYPES, Case, assert_same_loss, make_case
from torch import Tensor
from torch.nn import functional

from kdasr.losses import pruned_rnnt

# (S, T)
REFUSED = [(0, 4), (0, 1), (6, 4), (2, 1), (9, 2)]


def longer_am(am: Tensor, num_symbols: int) -> Tensor:
    """`am` with as many frames as k2 wants, along dimension 1."""
    missing = max(num_symbols, 1) - am.shape[1]
    extra = torch.randn(am.shape[0], max(missing, 0), *am.shape[2:], dtype=am.dtype)
    return torch.cat((am, extra), dim=1)


def longer_lm(lm: Tensor, num_symbols: int) -> Tensor:
    """`lm` with a second state when there is one only: a copy, which leaves the mean unigram as it is."""
    return lm if num_symbols else lm.repeat(1, 2, 1)


def for_k2(case: Case) -> dict[str, object]:
    """The common arguments, padded."""
    symbols = case.symbols if case.symbols.shape[1] else case.symbols.new_zeros(len(case.symbols), 1)
    return case.common | {"symbols": symbols, "boundary": case.filled_boundary}


@pytest.mark.parametrize("sizes", REFUSED)
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_k2_refuses(rnnt_type: str, sizes: tuple[int, int]) -> None:
    case = make_case(0, rnnt_type, sizes)
    ranges = torch.zeros(*case.am.shape[:2], 1, dtype=torch.int64)
    for name, arguments in {
        "rnnt_loss_simple": {"am": case.am, "lm": case.lm},
        "rnnt_loss_smoothed": {"am": case.am, "lm": case.lm},
        "rnnt_loss": {"logits": case.logits},
        "rnnt_loss_pruned": {"logits": case.logits[:, :, :1], "ranges": ranges},
    }.items():
        with pytest.raises(AssertionError):
            getattr(k2, name)(**arguments, **case.common)


@pytest.mark.parametrize("name", ["rnnt_loss_simple", "rnnt_loss_smoothed"])
@pytest.mark.parametrize("sizes", REFUSED)
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", range(14))
def test_trivial_joiners(seed: int, rnnt_type: str, sizes: tuple[int, int], name: str) -> None:
    case = make_case(seed, rnnt_type, sizes)
    num_symbols = sizes[0]

    def theirs(am: Tensor, lm: Tensor) -> Tensor:
        return getattr(k2, name)(
            am=longer_am(am, num_symbols), lm=longer_lm(lm, num_symbols), **for_k2(case), reduction="none"
        )

    def ours(am: Tensor, lm: Tensor) -> Tensor:
        return getattr(pruned_rnnt, name)(am=am, lm=lm, **case.common, reduction="none")

    assert_same_loss(theirs, ours, (case.am, case.lm), case.weights_B)


@pytest.mark.parametrize("sizes", REFUSED)
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", range(14))
def test_unpruned(seed: int, rnnt_type: str, sizes: tuple[int, int]) -> None:
    case = make_case(seed, rnnt_type, sizes)
    num_symbols = sizes[0]

    def theirs(logits: Tensor) -> Tensor:
        states = logits if num_symbols else logits.repeat(1, 1, 2, 1)
        return k2.rnnt_loss(longer_am(states, num_symbols), **for_k2(case), reduction="none")

    def ours(logits: Tensor) -> Tensor:
        return pruned_rnnt.rnnt_loss(logits, **case.common, reduction="none")

    assert_same_loss(theirs, ours, (case.logits,), case.weights_B)


def native_band(case: Case) -> tuple[Tensor, Tensor]:
    """Ranges from the native simple loss, and a joiner's output on them."""
    _, grads = pruned_rnnt.rnnt_loss_simple(am=case.am, lm=case.lm, **case.common, return_grad=True)
    ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, case.filled_boundary, case.s_range)
    am, lm = pruned_rnnt.do_rnnt_pruning(am=case.am, lm=case.lm, ranges=ranges)
    return ranges, 3 * torch.tanh(am + lm)


@pytest.mark.parametrize("sizes", REFUSED)
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", range(14))
def test_pruned(seed: int, rnnt_type: str, sizes: tuple[int, int]) -> None:
    case = make_case(seed, rnnt_type, sizes)
    num_symbols = sizes[0]
    ranges, logits = native_band(case)
    missing = max(num_symbols, 1) - ranges.shape[1]
    k2_ranges = torch.cat((ranges, ranges[:, -1:].repeat(1, max(missing, 0), 1)), dim=1)

    def theirs(logits: Tensor) -> Tensor:
        return k2.rnnt_loss_pruned(
            longer_am(logits, num_symbols), ranges=k2_ranges, **for_k2(case), reduction="none"
        )

    def ours(logits: Tensor) -> Tensor:
        return pruned_rnnt.rnnt_loss_pruned(logits, ranges=ranges, **case.common, reduction="none")

    assert_same_loss(theirs, ours, (logits,), case.weights_B)


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("seed", range(70))
def test_hat_loss(seed: int, rnnt_type: str) -> None:
    """k2 1.23.4 has no `use_hat_loss`: it is given the distribution that the factored blank makes."""
    case = make_case(seed, rnnt_type)
    # No transcript holds the blank, which this distribution leaves out of the symbols.
    num_classes = case.am.shape[2]
    symbols = torch.where(case.symbols == case.blank, (case.blank + 1) % num_classes, case.symbols)
    common = case.common | {"symbols": symbols}
    ranges, logits = native_band(case)

    def theirs(logits: Tensor) -> Tensor:
        is_blank = torch.arange(num_classes) == case.blank
        blank = logits[..., case.blank, None]
        labels = logits.masked_fill(is_blank, -torch.inf).log_softmax(-1).masked_fill(is_blank, 0.0)
        hat = torch.where(is_blank, functional.logsigmoid(blank), labels + functional.logsigmoid(-blank))
        return k2.rnnt_loss_pruned(hat, ranges=ranges, **common, reduction="none")

    def ours(logits: Tensor) -> Tensor:
        return pruned_rnnt.rnnt_loss_pruned(
            logits, ranges=ranges, **common, reduction="none", use_hat_loss=True
        )

    assert_same_loss(theirs, ours, (logits,), case.weights_B)


@pytest.mark.parametrize(("rnnt_type", "frames"), [("regular", 0), ("modified", 2)])
def test_impossible_utterances(rnnt_type: str, frames: int) -> None:
    """No path, an infinite loss. What k2 gives as occupations there is left over from its backward sweep, and
    its losses hand it on as gradient; ours are zero."""
    generator = torch.Generator().manual_seed(0)
    regular = rnnt_type == "regular"
    px, py = torch.randn(1, 3, 4 + regular, generator=generator), torch.randn(1, 4, 4, generator=generator)
    if regular:
        px[:, :, frames] = -torch.inf
    boundary = torch.tensor([[0, 0, 3, frames]])
    k2s, k2_grads = k2.mutual_information_recursion(px, py, boundary, return_grad=True)
    native, grads = pruned_rnnt.mutual_information_recursion(px, py, boundary, return_grad=True)
    assert native.isneginf().all() and k2s.isneginf().all()
    assert not any(x.any() for x in grads)
    assert any(x.any() for x in k2_grads)
