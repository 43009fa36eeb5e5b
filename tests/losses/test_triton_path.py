"""The divergence between paths by Triton's kernels, interpreted on the CPU, against torch in float64."""

from importlib import import_module
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from triton_without_gpu import Interpreter

from kdasr.losses.lattice import blocks
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.path_kl import NORMALIZE, PathForm, PathKl
from kdasr.losses.lattice.teacher_band import teacher_band
from kdasr.losses.pruned_rnnt import recursion

pytest.importorskip("triton")

SYMBOLS = torch.tensor([[1, 2, 2], [3, 1, 0]])
BOUNDARY = torch.tensor([[0, 0, 3, 5], [0, 0, 2, 3]])
RANGES = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]])[:, :, None] + torch.arange(3)


def losses_and_gradients(tensors: list[Tensor], normalize: str) -> list[Tensor]:
    """The divergence, and the gradients of its sum."""
    student, teacher = Joint(*(x.clone().requires_grad_() for x in tensors[:4])), Joint(*tensors[4:])
    path = PathKl(teacher_band(teacher, SYMBOLS, RANGES, 0, BOUNDARY), PathForm(normalize))
    losses = joint_losses(student, SYMBOLS, RANGES, 0, BOUNDARY, paths=[path])
    return [losses.paths[0].detach(), *torch.autograd.grad(losses.paths[0].sum(), student)]


def as_on_a_gpu(tensors: list[Tensor], normalize: str) -> list[Tensor]:
    """The same through the kernels, which also get the nodes of padding frames."""
    nodes = import_module("kdasr.losses.lattice.triton_nodes")
    columns = import_module("kdasr.losses.pruned_rnnt.triton_recursion")
    valid_frames = blocks.valid_frames
    with (
        patch.object(blocks, "node_kernels", lambda _: nodes),
        patch.object(blocks, "valid_frames", lambda ranges, _, states: valid_frames(ranges, None, states)),
        patch.object(recursion, "recursion_kernels", lambda _: columns),
    ):
        return losses_and_gradients(tensors, normalize)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_kernels_give_the_same(interpreted: Interpreter, normalize: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 4), (2, 4, 4), (5, 4), (5,))
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes * 2]
    expected = losses_and_gradients(tensors, normalize)
    singles = [x.float() for x in tensors]
    singles[4][1, 3:] = torch.nan  # the teacher's padding
    actual, _ = interpreted(f"{__name__}.as_on_a_gpu", singles, normalize)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5)
