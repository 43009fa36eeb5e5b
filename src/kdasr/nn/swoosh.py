"""The activation functions of Zipformer (Yao et al. 2024)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.nn.linear import in_graph_capture

SLOPE = 0.08
LEFT = (4.0, 0.035)
RIGHT = (1.0, 0.313261687)
"""What is subtracted before and after the softplus. ln(1 + 1/e) after it, so that `swoosh_right(0)` is 0."""


def swoosh_left(x: Tensor) -> Tensor:
    """softplus(x - 4) - 0.08 x - 0.035: almost off at 0; for modules that should rest at 0."""
    return _swoosh(x, *LEFT)


def swoosh_right(x: Tensor) -> Tensor:
    """softplus(x - 1) - 0.08 x - ln(1 + 1/e): 0 at 0."""
    return _swoosh(x, *RIGHT)


def _swoosh(x: Tensor, shift: float, offset: float) -> Tensor:
    if in_graph_capture() or not (x.requires_grad and torch.is_grad_enabled()):
        return functional.softplus(x - shift) - SLOPE * x - offset
    return _Swoosh.apply(x, shift, offset)


class _Swoosh(torch.autograd.Function):
    """The same in a third of the time on the CPU: what lies between input and output stays in the cache.

    Only x is kept for the gradient, sigmoid(x - shift) - 0.08.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: float, offset: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shift = shift
        flat = _flat(x)
        if flat is None:
            return functional.softplus(x - shift).sub_(x, alpha=SLOPE).sub_(offset)
        y = torch.empty_like(x)
        for x_part, y_part in zip(_parts(flat), _parts(_flat(y)), strict=True):
            torch.sub(x_part, shift, out=y_part)
            torch.ops.aten.softplus.out(y_part, 1, 20, out=y_part)
            y_part.sub_(x_part, alpha=SLOPE).sub_(offset)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        flat, flat_grad = _flat(x), _flat(grad)
        if flat is None or flat_grad is None or x.stride() != grad.stride():
            # Under autocast the gradient is float32, like the softplus, and x may be shorter.
            slope = (x.to(grad.dtype) - ctx.shift).sigmoid_().sub_(SLOPE)
            return slope.mul_(grad).to(x.dtype), None, None
        x_grad = torch.empty_like(x)
        parts = zip(_parts(flat), _parts(flat_grad), _parts(_flat(x_grad)), strict=True)
        for x_part, grad_part, part in parts:
            torch.sub(x_part, ctx.shift, out=part).sigmoid_().sub_(SLOPE).mul_(grad_part)
        return x_grad, None, None


PART = 2**15
"""Values that are computed at once on the CPU: 128 KiB."""


def _flat(x: Tensor) -> Tensor | None:
    """The values of a float32 tensor on the CPU in the order of its memory, or None."""
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return None
    if x.is_contiguous():
        return x.detach().view(-1)
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.detach().movedim(1, -1).view(-1)
    return None


def _parts(flat: Tensor | None) -> tuple[Tensor, ...]:
    assert flat is not None
    return flat.split(PART)
