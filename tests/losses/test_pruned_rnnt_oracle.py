"""Against independent implementations: torchaudio's loss, and the recursion written as plain loops."""

from typing import NamedTuple

import pytest
import torch
import torchaudio
from torch import Tensor

from kdasr.losses import pruned_rnnt

RNNT_TYPES = ("regular", "modified", "constrained")


class Case(NamedTuple):
    am: Tensor
    lm: Tensor
    symbols: Tensor
    boundary: Tensor


def make_case(seed: int, lens: list[int], symbol_lens: list[int], vocab: int = 7) -> Case:
    generator = torch.Generator().manual_seed(seed)
    batch, num_frames, num_symbols = len(lens), max(lens), max(symbol_lens)
    return Case(
        am=2 * torch.randn(batch, num_frames, vocab, generator=generator, dtype=torch.float64),
        lm=2 * torch.randn(batch, num_symbols + 1, vocab, generator=generator, dtype=torch.float64),
        symbols=torch.randint(1, vocab, (batch, num_symbols), generator=generator),
        boundary=torch.tensor([[0, 0, s, t] for s, t in zip(symbol_lens, lens, strict=True)]),
    )


RAGGED = ([9, 6, 4, 7], [4, 2, 3, 0])
LONG_TRANSCRIPT = ([3, 2], [7, 5])
ALL_EMPTY = ([5, 3], [0, 0])


def full_logits(case: Case) -> Tensor:
    return torch.tanh(case.am[:, :, None] + case.lm[:, None])


def torchaudio_loss(logits: Tensor, case: Case) -> Tensor:
    return torchaudio.functional.rnnt_loss(
        logits.float(),
        case.symbols.int(),
        case.boundary[:, 3].int(),
        case.boundary[:, 2].int(),
        blank=0,
        reduction="none",
    )


def full_ranges(case: Case) -> Tensor:
    batch, num_frames = case.am.shape[:2]
    return torch.arange(case.symbols.shape[1] + 1).expand(batch, num_frames, -1)


@pytest.mark.parametrize("sizes", [RAGGED, LONG_TRANSCRIPT])
@pytest.mark.parametrize("which", ["unpruned", "full range"])
def test_values_and_gradients_are_torchaudios(sizes: tuple[list[int], list[int]], which: str) -> None:
    case = make_case(1, *sizes)
    logits = full_logits(case).requires_grad_()
    theirs = torchaudio_loss(logits, case)
    (their_grad,) = torch.autograd.grad(theirs.sum(), logits)
    if which == "unpruned":
        ours = pruned_rnnt.rnnt_loss(logits, case.symbols, 0, case.boundary, reduction="none")
    else:
        ours = pruned_rnnt.rnnt_loss_pruned(
            logits, case.symbols, full_ranges(case), 0, case.boundary, reduction="none"
        )
    (our_grad,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(our_grad, their_grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_full_range_equals_unpruned(rnnt_type: str) -> None:
    case = make_case(2, *RAGGED)
    logits = full_logits(case).requires_grad_()
    unpruned = pruned_rnnt.rnnt_loss(logits, case.symbols, 0, case.boundary, rnnt_type, 0.05, "none")
    pruned = pruned_rnnt.rnnt_loss_pruned(
        logits, case.symbols, full_ranges(case), 0, case.boundary, rnnt_type, 0.05, "none"
    )
    torch.testing.assert_close(pruned, unpruned)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (pruned, unpruned)))


def loop_total(log_probs: Tensor, case: Case, item: int, allowed: set[tuple[int, int]], kind: str) -> Tensor:
    """Total of one utterance by the textbook recursion over the `(t, s)` nodes in `allowed`."""
    _, _, s_end, t_end = case.boundary[item].tolist()
    symbols = case.symbols[item].tolist()
    impossible = torch.tensor(-torch.inf, dtype=log_probs.dtype)

    def blank(t: int, s: int) -> Tensor:
        return log_probs[t, s, 0] if (t, s) in allowed else impossible

    def emit(t: int, s: int) -> Tensor:
        if (t, s) not in allowed:
            return impossible
        follow = blank(t, s + 1) if kind == "constrained" else 0.0
        return log_probs[t, s, symbols[s]] + follow

    total = {(0, 0): torch.zeros((), dtype=log_probs.dtype)}
    for s in range(s_end + 1):
        for t in range(t_end + 1):
            arcs = []
            if t > 0:
                arcs.append(total[t - 1, s] + blank(t - 1, s))
            if s > 0 and kind == "regular":
                arcs.append(total[t, s - 1] + (emit(t, s - 1) if t < t_end else impossible))
            if s > 0 and t > 0 and kind != "regular":
                arcs.append(total[t - 1, s - 1] + emit(t - 1, s - 1))
            if (t, s) != (0, 0):
                finite = [arc for arc in arcs if arc > -torch.inf]
                total[t, s] = torch.logsumexp(torch.stack(finite), 0) if finite else impossible
    return total[t_end, s_end]


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@pytest.mark.parametrize("sizes", [RAGGED, LONG_TRANSCRIPT, ALL_EMPTY])
@pytest.mark.parametrize("s_range", [2, 3])
def test_pruned_loss_is_the_recursion_on_the_band(
    rnnt_type: str, sizes: tuple[list[int], list[int]], s_range: int
) -> None:
    case = make_case(3, *sizes)
    am, lm = case.am.requires_grad_(), case.lm.requires_grad_()
    _, grads = pruned_rnnt.rnnt_loss_simple(
        lm, am, case.symbols, 0, case.boundary, rnnt_type, return_grad=True
    )
    ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, case.boundary, s_range)
    pruned_am, pruned_lm = pruned_rnnt.do_rnnt_pruning(am, lm, ranges)
    logits = torch.tanh(pruned_am + pruned_lm)
    ours = pruned_rnnt.rnnt_loss_pruned(
        logits, case.symbols, ranges, 0, case.boundary, rnnt_type, reduction="none"
    )
    log_probs = full_logits(case).log_softmax(-1)
    bands = [{(t, s) for t, states in enumerate(item) for s in states} for item in ranges.tolist()]
    theirs = torch.stack(
        [-loop_total(log_probs[i], case, i, band, rnnt_type) for i, band in enumerate(bands)]
    )
    torch.testing.assert_close(ours, theirs)
    possible = theirs.isfinite()
    if not possible.any():
        return
    our_grads = torch.autograd.grad(ours[possible].sum(), (am, lm), retain_graph=True)
    torch.testing.assert_close(our_grads, torch.autograd.grad(theirs[possible].sum(), (am, lm)))


def loop_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> list[list[int]]:
    """First states of the windows, one step of the rule after the other, in plain Python."""
    num_symbols, num_frames = px_grad.shape[1], py_grad.shape[2]
    regular = px_grad.shape[2] == num_frames + 1
    if regular:
        s_range = max([s_range, *(int((s - 1) / t) + 2 for _, _, s, t in boundary.tolist())])
    s_range = min(s_range, num_symbols + 1)
    reach = s_range if regular else 2
    result = []
    for item, (_, _, s_end, t_end) in enumerate(boundary.tolist()):
        starts = []
        for t in range(num_frames):
            scores = [
                py_grad[item, i : i + s_range, t].sum() - (px_grad[item, i - 1, t] if i > 0 else 0.0)
                for i in range(num_symbols + 2 - s_range)
            ]
            starts.append(int(torch.stack([torch.as_tensor(x) for x in scores]).argmax()))
        starts = [s if t < t_end - 1 else max(s_end - s_range + 1, 0) for t, s in enumerate(starts)]
        starts = [min(starts[t:]) for t in range(num_frames)]
        lifted = [(reach - 1) * t - s for t, s in enumerate(starts)]
        lifted = [max(min(lifted[t:]), 0) for t in range(num_frames)]
        result.append([(reach - 1) * t - x for t, x in enumerate(lifted)])
    return result


@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
@pytest.mark.parametrize("seed", range(8))
def test_prune_ranges_follow_the_rule(rnnt_type: str, seed: int) -> None:
    sizes = [RAGGED, LONG_TRANSCRIPT, ([20, 15, 9], [8, 7, 9])][seed % 3]
    case = make_case(100 + seed, *sizes)
    _, grads = pruned_rnnt.rnnt_loss_simple(
        case.lm, case.am, case.symbols, 0, case.boundary, rnnt_type, return_grad=True
    )
    for s_range in (2, 3, 5, 50):
        ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, case.boundary, s_range)
        assert ranges[:, :, 0].tolist() == loop_ranges(*grads, case.boundary, s_range)
        assert (ranges.diff(dim=2) == 1).all()
        assert ranges.min() >= 0 and ranges.max() <= case.symbols.shape[1]


@pytest.mark.parametrize("rnnt_type", ["modified", "constrained"])
def test_the_last_symbol_may_leave_the_last_window(rnnt_type: str) -> None:
    """In the modified lattice it takes the last frame, and its state is no node of any frame."""
    case = make_case(11, [3, 3], [3, 2])
    ranges = torch.tensor([[[0], [1], [2]], [[0], [0], [1]]])
    logits = torch.tanh(case.am[:, :, None] + case.lm.gather(1, ranges.expand(2, 3, 7)).unsqueeze(2))
    ours = pruned_rnnt.rnnt_loss_pruned(
        logits.requires_grad_(), case.symbols, ranges, 0, case.boundary, rnnt_type, reduction="none"
    )
    log_probs = full_logits(case).log_softmax(-1)
    bands = [{(t, s) for t, states in enumerate(item) for s in states} for item in ranges.tolist()]
    theirs = torch.stack([-loop_total(log_probs[i], case, i, bands[i], rnnt_type) for i in range(2)])
    torch.testing.assert_close(ours, theirs)
    assert ours.isfinite().any() if rnnt_type == "modified" else True
