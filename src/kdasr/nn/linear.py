"""A linear layer that multiplies matrices with oneDNN on the CPU, and the products that it is made of."""

# Shapes: X rows, I input width, O output width.

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_onednn_linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Linear(nn.Linear):
    """`torch.nn.Linear`, twice as fast in float32 on CPUs where MKL does not use AVX-512.

    torch multiplies float32 matrices with MKL, which falls back to AVX2 on AMD processors; oneDNN, which
    torch brings along too, uses what the processor has. Everywhere else (GPU, other types, autocast,
    export, a torch without that operator) this is torch's own layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """What `Linear` computes, for weights that another layer holds."""
    if in_graph_capture() or not _onednn_applies(x, weight_OI):
        return functional.linear(x, weight_OI, bias_O)
    tensors = (x, weight_OI, bias_O)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        return _OneDnnLinear.apply(x, weight_OI, bias_O)
    return _multiply(x, weight_OI, bias_O)


def linear_product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x W^T + b, `(..., O)`, by the fastest product; for code with its own gradients."""
    if not _onednn_applies(x, weight_OI):
        return functional.linear(x, weight_OI, bias_O)
    return _multiply(x, weight_OI, bias_O)


def transposed_product(left_XO: Tensor, right_XI: Tensor) -> Tensor:
    """left^T right, `(O, I)`: the gradient of a weight."""
    if not _onednn_applies(left_XO, right_XI):
        return left_XO.t() @ right_XI
    # The operator copies a transposed first argument, so that is the narrower one.
    if left_XO.shape[1] <= right_XI.shape[1]:
        return _multiply(left_XO.t(), right_XI.t(), None)
    return _multiply(right_XI.t(), left_XO.t(), None).t().contiguous()


def _onednn_applies(x: Tensor, weight_OI: Tensor) -> bool:
    return (
        _onednn_linear is not None
        and torch.backends.mkldnn.is_available()
        and x.device.type == "cpu"
        and x.dtype == weight_OI.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def in_graph_capture() -> bool:
    return torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or torch.jit.is_tracing()


def _multiply(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    assert _onednn_linear is not None
    return _onednn_linear(x, weight_OI, bias_O, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        ctx.has_bias = bias_O is not None
        return _multiply(x, weight_OI, bias_O)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OI = ctx.saved_tensors
        grad_XO = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight_OI = grad_bias_O = None
        if ctx.needs_input_grad[0]:
            grad_x = _multiply(grad_XO, weight_OI.t(), None).view(x.shape)
        if ctx.needs_input_grad[1]:
            grad_weight_OI = transposed_product(grad_XO, x.reshape(-1, x.shape[-1]))
        if ctx.has_bias and ctx.needs_input_grad[2]:
            grad_bias_O = grad_XO.sum(dim=0)
        return grad_x, grad_weight_OI, grad_bias_O
