"""FastEmit (Yu et al. 2021, arXiv 2010.11148) in the pruned loss, against a recursion written out."""

import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from straightforward import joiner_logits
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.power import PowerRule

RNNT_TYPES = ["regular", "modified", "constrained"]


def node_scores(student: Joint, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the nodes' symbols and blanks, with gradient."""
    log_probs = joiner_logits(student, ranges).log_softmax(-1)
    symbols = torch.nn.functional.pad(SYMBOLS, (0, 1)).gather(1, ranges.flatten(1)).view_as(ranges)
    return log_probs.gather(-1, symbols[..., None])[..., 0], log_probs[..., 0]


def total_of(
    px_TK: Tensor, py_TK: Tensor, ranges_TK: Tensor, s_end: int, t_end: int, rnnt_type: str
) -> Tensor:
    """Log-probability of an utterance's paths in its band."""
    nowhere = torch.tensor(-torch.inf, dtype=px_TK.dtype)
    slots = [{s: k for k, s in enumerate(states)} for states in ranges_TK.tolist()]
    totals = {(0, 0): torch.zeros((), dtype=px_TK.dtype)}

    def arrive(t: int, s: int, score: Tensor) -> None:
        totals[t, s] = torch.logaddexp(totals.get((t, s), nowhere), score)

    for t in range(t_end):
        for s in range(s_end + 1):
            if (t, s) not in totals or s not in slots[t]:
                continue
            here, k = totals[t, s], slots[t][s]
            arrive(t + 1, s, here + py_TK[t, k])
            if s == s_end:
                continue
            emitted = here + px_TK[t, k]
            if rnnt_type == "constrained" and s + 1 in slots[t]:
                arrive(t + 1, s + 1, emitted + py_TK[t, k + 1])
            elif rnnt_type == "modified":
                arrive(t + 1, s + 1, emitted)
            elif rnnt_type == "regular":
                arrive(t, s + 1, emitted)
    return totals[t_end, s_end]


@pytest.mark.parametrize("keep_logits", [True, False])
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_fast_emit_scales_gradients_of_symbols_only(rnnt_type: str, keep_logits: bool) -> None:
    student = random_joint()
    ranges = ranges_of(student, rnnt_type)
    px, py = node_scores(student, ranges)
    leaves = px.detach().requires_grad_(), py.detach().requires_grad_()
    totals = [
        total_of(leaves[0][b], leaves[1][b], ranges[b], int(s_end), int(t_end), rnnt_type)
        for b, (_, _, s_end, t_end) in enumerate(BOUNDARY)
    ]
    uses_of_symbols, uses_of_blanks = torch.autograd.grad(sum(totals), leaves)
    # Occupations are constants here: the sum over arcs of how often paths use them, times their scores.
    surrogate = -(1.3 * uses_of_symbols * px + uses_of_blanks * py).sum()
    ours = joint_losses(
        student, SYMBOLS, ranges, 0, BOUNDARY, rnnt_type=rnnt_type, fast_emit=0.3, keep_logits=keep_logits
    )
    torch.testing.assert_close(ours.rnnt_B, -torch.stack(totals))
    torch.testing.assert_close(
        torch.autograd.grad(ours.rnnt_B.sum(), student), torch.autograd.grad(surrogate, student)
    )


def test_without_fast_emit_gradients_are_equal_to_the_bit() -> None:
    student = random_joint(dtype=torch.float32)
    ranges = ranges_of(student)
    plain, zero, fast = (
        joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, **options)
        for options in ({}, {"fast_emit": 0.0}, {"fast_emit": 0.5})
    )
    grads = [torch.autograd.grad(losses.rnnt_B.sum(), student) for losses in (plain, zero, fast)]
    assert torch.equal(plain.rnnt_B, zero.rnnt_B) and torch.equal(plain.rnnt_B, fast.rnnt_B)
    assert all(torch.equal(a, b) for a, b in zip(grads[0], grads[1], strict=True))
    assert not any(torch.allclose(a, b) for a, b in zip(grads[0], grads[2], strict=True))


def test_a_divergence_on_the_same_nodes_is_left_alone() -> None:
    student, teacher = random_joint(), random_joint(1)
    ranges = ranges_of(student)
    term = PowerKl(teacher, PowerRule("fixed"), KlForm(), valid_nodes(ranges), by_occupation=True)
    plain, fast = (
        joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term], fast_emit=amount)
        for amount in (0.0, 0.5)
    )
    torch.testing.assert_close(
        torch.autograd.grad(fast.nodes[0].value_B.sum(), student),
        torch.autograd.grad(plain.nodes[0].value_B.sum(), student),
    )
