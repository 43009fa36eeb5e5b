"""Depthwise convolution along time with a backward pass that is fast on the CPU."""

# Shapes: B sequences, P input frames, W = P - kernel + 1 output frames, D width, J kernel taps.

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def depthwise_conv(x_BPD: Tensor, weight_DJ: Tensor, bias_D: Tensor) -> Tensor:
    """Convolve each channel with its own kernel, without padding: (B, P, D) to (B, W, D)."""
    needs_grad = torch.is_grad_enabled() and weight_DJ.requires_grad
    if needs_grad and x_BPD.device.type == "cpu":
        return _DepthwiseConv.apply(x_BPD, weight_DJ, bias_D)
    return _convolve(x_BPD, weight_DJ, bias_D)


def _convolve(x_BPD: Tensor, weight_DJ: Tensor, bias_D: Tensor | None) -> Tensor:
    # Frames by channels is the channels-last layout of a 2-d convolution: nothing is moved, and on the CPU
    # this takes a fraction of the time of a 1-d convolution of channels by frames.
    weight = weight_DJ[:, None, None].contiguous(memory_format=torch.channels_last)
    x_BD1P = x_BPD.transpose(1, 2).unsqueeze(2)
    return functional.conv2d(x_BD1P, weight, bias_D, groups=x_BPD.shape[-1]).squeeze(2).transpose(1, 2)


class _DepthwiseConv(torch.autograd.Function):
    """The same convolution; its weight gradient is one multiply-and-sum per tap.

    torch's own weight gradient of a depthwise convolution takes 3 to 15 times as long, the more the shorter
    the sequences: a seventh of a whole chunked training step.
    """

    @staticmethod
    def forward(ctx: Any, x_BPD: Tensor, weight_DJ: Tensor, bias_D: Tensor) -> Tensor:
        ctx.save_for_backward(x_BPD, weight_DJ)
        return _convolve(x_BPD, weight_DJ, bias_D)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_BWD: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x_BPD, weight_DJ = ctx.saved_tensors
        num_taps, num_frames = weight_DJ.shape[1], grad_BWD.shape[1]
        grad_weight_DJ = torch.empty_like(weight_DJ)
        for tap in range(num_taps):
            grad_weight_DJ[:, tap] = (x_BPD[:, tap : tap + num_frames] * grad_BWD).flatten(0, 1).sum(dim=0)
        grad_x_BPD = None
        if ctx.needs_input_grad[0]:
            padded_BQD = functional.pad(grad_BWD, (0, 0, num_taps - 1, num_taps - 1))
            grad_x_BPD = _convolve(padded_BQD, weight_DJ.flip(1).to(padded_BQD.dtype), None)
        return grad_x_BPD, grad_weight_DJ, grad_BWD.flatten(0, 1).sum(dim=0).to(weight_DJ.dtype)
