"""The losses put together from Triton kernels, interpreted on the CPU, against torch in float64."""

from importlib import import_module
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from triton_without_gpu import Interpreter

from kdasr.losses.lattice import blocks, kl
from kdasr.losses.lattice.collapsed import CollapsedKl
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, NextSymbols, PowerKl
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.pruned_rnnt import get_rnnt_prune_ranges, recursion, rnnt_loss_simple

pytest.importorskip("triton")

SYMBOLS = torch.tensor([[1, 2, 2], [3, 1, 0]])
BOUNDARY = torch.tensor([[0, 0, 3, 6], [0, 0, 2, 4]])


def losses_and_gradients(
    tensors: list[Tensor], keep_logits: bool, granularity: str, collapsed: bool
) -> list[Tensor]:
    """Simple loss, pruned loss, divergence, and the gradients of their weighted sum."""
    student, teacher = Joint(*(x.clone().requires_grad_() for x in tensors[:4])), Joint(*tensors[4:])
    am, lm = (x @ student.weight_VD.t() for x in student[:2])
    simple, grads = rnnt_loss_simple(lm, am, SYMBOLS, 0, BOUNDARY, reduction="none", return_grad=True)
    ranges = get_rnnt_prune_ranges(*grads, BOUNDARY, 2)
    valid = (torch.arange(6) < BOUNDARY[:, 3:4])[:, :, None] & (ranges <= BOUNDARY[:, 2, None, None])
    rule = PowerRule("entropy", entropy_floor=1.0, granularity=granularity)
    term = PowerKl(teacher, rule, KlForm(), valid, by_occupation=True)
    if collapsed:
        symbols = NextSymbols.of(SYMBOLS, BOUNDARY[:, 2], blank=0)
        term = CollapsedKl(teacher, rule, KlForm(), valid, by_occupation=True, symbols=symbols)
    losses = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term], keep_logits=keep_logits)
    total = (0.5 * simple + losses.rnnt_B + 2 * losses.nodes[0].value_B).sum()
    gradients = torch.autograd.grad(total, student)
    return [
        x.detach()
        for x in (simple, losses.rnnt_B, losses.nodes[0].value_B, losses.nodes[0].exponent_B, *gradients)
    ]


def with_kernels(*arguments: object) -> list[Tensor]:
    """The same through the kernels, as on a GPU."""
    nodes = import_module("kdasr.losses.lattice.triton_nodes")
    columns = import_module("kdasr.losses.pruned_rnnt.triton_recursion")
    with (
        patch.object(blocks, "node_kernels", lambda _: nodes),
        patch.object(kl, "node_kernels", lambda _: nodes),
        patch.object(recursion, "recursion_kernels", lambda _: columns),
    ):
        return losses_and_gradients(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("collapsed", [False, True])
@pytest.mark.parametrize(("keep_logits", "granularity"), [(True, "node"), (False, "utterance")])
def test_kernels_give_the_same_losses_and_gradients(
    interpreted: Interpreter, keep_logits: bool, granularity: str, collapsed: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 4), (2, 4, 4), (5, 4), (5,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes * 2]
    expected = losses_and_gradients(tensors, keep_logits, granularity, collapsed)
    name = f"{__name__}.with_kernels"
    actual, _ = interpreted(name, [x.float() for x in tensors], keep_logits, granularity, collapsed)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
