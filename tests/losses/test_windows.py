"""Alignment-restricted losses: against every path counted one by one, and what no window changes."""

from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.pruned_rnnt.simple import rnnt_loss_smoothed

B, S, T, V, D = 2, 3, 6, 5, 4
ANYWHERE = torch.tensor([0, T]).expand(B, S, 2).contiguous()
NARROW = torch.tensor([[[1, 3], [2, 5], [4, 6]], [[0, 2], [0, 6], [3, 6]]])
BOUNDARY = torch.tensor([[0, 0, 3, 6], [0, 0, 3, 5]])


def everything(seed: int = 0) -> tuple[Joint, Tensor, Tensor]:
    """A joiner in float64, its symbols, and a band that holds the whole lattice."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    joint = Joint(random(B, T, D), random(B, S + 1, D), random(V, D), random(V))
    symbols = torch.randint(1, V, (B, S), generator=generator)
    return joint, symbols, torch.arange(S + 1).expand(B, T, S + 1).contiguous()


def loss_by_paths(log_probs: Tensor, symbols: Tensor, windows: Tensor, frames: int, rnnt_type: str) -> Tensor:
    """Minus the log of the summed probability of every allowed path; `log_probs` (T, S + 1, V)."""
    totals = []
    places = product(range(frames), repeat=S) if rnnt_type == "regular" else combinations(range(frames), S)
    for emitted in places:
        if list(emitted) != sorted(emitted):
            continue
        if any(not windows[s, 0] <= t < windows[s, 1] for s, t in enumerate(emitted)):
            continue
        score, state = log_probs.new_zeros(()), 0
        for t in range(frames):
            while state < S and emitted[state] == t:
                score = score + log_probs[t, state, symbols[state]]
                state += 1
                if rnnt_type == "modified":
                    break
            else:
                score = score + log_probs[t, state, 0]
        totals.append(score)
    return -torch.stack(totals).logsumexp(0)


@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_only_paths_within_the_windows_count(rnnt_type: str) -> None:
    joint, symbols, ranges = everything()
    logits = torch.tanh(joint.am_BTD[:, :, None] + joint.lm_BSD[:, None]) @ joint.weight_VD.T + joint.bias_V
    log_probs = logits.log_softmax(-1)
    expected = torch.stack([
        loss_by_paths(log_probs[b], symbols[b], NARROW[b], int(BOUNDARY[b, 3]), rnnt_type) for b in range(B)
    ])  # fmt: skip
    losses = joint_losses(joint, symbols, ranges, 0, BOUNDARY, rnnt_type=rnnt_type, windows=NARROW)
    torch.testing.assert_close(losses.rnnt_B, expected)
    ours = torch.autograd.grad(losses.rnnt_B.sum(), list(joint))
    theirs = torch.autograd.grad(expected.sum(), list(joint))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_the_simple_loss_counts_the_same_paths(rnnt_type: str) -> None:
    generator = torch.Generator().manual_seed(1)
    am = torch.randn(B, T, V, generator=generator, dtype=torch.float64).requires_grad_()
    lm = torch.randn(B, S + 1, V, generator=generator, dtype=torch.float64).requires_grad_()
    symbols = torch.randint(1, V, (B, S), generator=generator)
    log_probs = (am[:, :, None] + lm[:, None]).log_softmax(-1)
    expected = torch.stack([
        loss_by_paths(log_probs[b], symbols[b], NARROW[b], int(BOUNDARY[b, 3]), rnnt_type) for b in range(B)
    ])  # fmt: skip
    found, (px_grad, _) = rnnt_loss_smoothed(
        lm, am, symbols, 0, 0.0, 0.0, BOUNDARY, rnnt_type, 0.0, "none", True, windows=NARROW
    )
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(found.sum(), (lm, am)), torch.autograd.grad(expected.sum(), (lm, am)), strict=True
    ):
        torch.testing.assert_close(one, other)
    # Every piece is emitted once, and only inside its window: pruning follows the windows.
    torch.testing.assert_close(px_grad.sum(2), torch.ones(B, S, dtype=torch.float64))
    frames = torch.arange(px_grad.shape[2])
    inside = (frames >= NARROW[:, :, :1]) & (frames < NARROW[:, :, 1:])
    assert not px_grad[~inside].any()


def test_full_windows_change_nothing_empty_ones_leave_no_path() -> None:
    joint, symbols, ranges = everything(2)
    usual = joint_losses(joint, symbols, ranges, 0, BOUNDARY)
    wide = joint_losses(joint, symbols, ranges, 0, BOUNDARY, windows=ANYWHERE)
    assert torch.equal(usual.rnnt_B, wide.rnnt_B)
    narrow = joint_losses(joint, symbols, ranges, 0, BOUNDARY, windows=NARROW)
    assert (narrow.rnnt_B > usual.rnnt_B).all()
    impossible = NARROW.clone()
    impossible[0, 1] = 0
    lost = joint_losses(joint, symbols, ranges, 0, BOUNDARY, windows=impossible)
    assert lost.rnnt_B[0].isinf() and torch.equal(lost.rnnt_B[1], narrow.rnnt_B[1])
    gradient = torch.autograd.grad(lost.rnnt_B[0], joint.am_BTD)[0]
    assert not gradient.any()


def test_windows_of_another_shape_are_refused() -> None:
    joint, symbols, ranges = everything()
    with pytest.raises(ValueError, match=r"windows \(2, 2, 2\)"):
        joint_losses(joint, symbols, ranges, 0, BOUNDARY, windows=NARROW[:, :2])
