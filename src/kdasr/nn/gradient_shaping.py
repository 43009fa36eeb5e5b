"""Modules that leave what passes through them as it is, and change the gradient (Zipformer, Yao et al. 2024).

They keep activations in a range where training works: signs that are mixed, sizes that are neither tiny nor
huge, channels that differ. In evaluation none of them does anything.
"""

# Shapes: C channels, `...` any other dimensions, X frames of all utterances (padding included), G groups,
# E channels of a group.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdasr.nn.schedule import Ramp, value

TINY = 1e-20


def by_chance(probability: float) -> bool:
    """True with this probability, by torch's generator of the CPU: no wait for the device."""
    return probability > 0.0 and float(torch.rand(())) < probability


class _Shape(torch.autograd.Function):
    """The identity; `change(x, gradient)` is what goes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.change(x, grad), None


def shape_gradient(x: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`x`, whose gradient is `change(x, gradient)`."""
    return _Shape.apply(x, change) if x.requires_grad and torch.is_grad_enabled() else x


@dataclass(frozen=True)
class ChannelRange:
    """What the values of a channel are to be like; see `Balancer`."""

    min_positive: float = 0.05
    max_positive: float = 0.95
    min_abs: float = 0.2
    max_abs: float = 100.0


class Balancer(nn.Module):
    """Pushes channels whose share of positive values, or whose size, is out of range back into it.

    For normal values the share p of positive ones says that mean / rms is about 0.81 artanh(2p - 1), and the
    mean absolute value a that the rms is sqrt(pi / 2) a. The penalty is how far mean / rms is out of range,
    plus how far the logarithm of rms is.
    """

    def __init__(
        self,
        probability: float | Ramp,
        *,
        min_positive: float | Ramp = 0.05,
        max_positive: float | Ramp = 0.95,
        min_abs: float | Ramp = 0.2,
        max_abs: float | Ramp = 100.0,
        channel_dim: int = -1,
    ) -> None:
        """
        Args:
            probability: share of calls that it acts on.
            min_positive: least share of positive values of a channel.
            max_positive: greatest one.
            min_abs: least mean absolute value.
            max_abs: greatest one.
            channel_dim: the channels' dimension.
        """
        super().__init__()
        self.probability = probability
        self.min_positive, self.max_positive = min_positive, max_positive
        self.min_abs, self.max_abs = min_abs, max_abs
        self.channel_dim = channel_dim

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not by_chance(value(self.probability)):
            return x
        bounds = (self.min_positive, self.max_positive, self.min_abs, self.max_abs)
        limits = ChannelRange(*(value(bound) for bound in bounds))
        return shape_gradient(x, lambda x, grad: balanced_gradient(x, grad, limits, self.channel_dim))


BALANCER_SCALE = 0.04


def balanced_gradient(x: Tensor, grad: Tensor, limits: ChannelRange, channel_dim: int = -1) -> Tensor:
    """The gradient with that of the balancer's penalty added, in proportion to its own size."""
    others = [dim for dim in range(x.ndim) if dim != channel_dim % x.ndim]
    x = x.detach().float()
    mean = x.mean(dim=others, keepdim=True)
    square = x.square().mean(dim=others, keepdim=True)
    slope, offset = _balancer_line(mean, square, limits)
    if x.device.type == "cpu" and not (slope.any() or offset.any()):
        return grad
    change = torch.addcmul(offset, x, slope).to(grad.dtype)
    return change.mul_(grad.abs()).add_(grad)


def _balancer_line(mean: Tensor, square: Tensor, limits: ChannelRange) -> tuple[Tensor, Tensor]:
    """What the balancer adds to a gradient of 1, which is a line over x: slope and offset, by channel.

    The penalty is a function of the mean of x and of the mean of its square, so that its derivative is a
    multiple of 1 plus a multiple of x. It is made as large as `BALANCER_SCALE` in the quadratic mean.
    """
    variance = (square - mean.square()).clamp(min=TINY).double()
    varies, is_sized = square - mean.square() >= TINY, square >= TINY
    mean, square = mean.double(), square.double()
    shift, rms = mean / variance.sqrt(), square.clamp(min=TINY).sqrt()
    low, high = _normal_shift(limits.min_positive), _normal_shift(limits.max_positive)
    least, most = (2**-0.5 * torch.pi**0.5 * size for size in (limits.min_abs, limits.max_abs))
    is_shifted = (shift - shift.clamp(low, high)).sign()
    is_large = (rms - rms.clamp(least, most)).sign()
    # The derivative by the mean, and twice the one by the mean of the square.
    by_mean = is_shifted * (1.0 / variance.sqrt() + varies * mean.square() / variance**1.5)
    slope = is_large * is_sized / rms.square() - is_shifted * varies * mean / variance**1.5
    size = ((by_mean + slope * mean).square() + slope.square() * variance * varies).sqrt()
    scale = BALANCER_SCALE / size.clamp(min=TINY)
    return (slope * scale).float(), (by_mean * scale).float()


def _normal_shift(share: float) -> float:
    """Mean by standard deviation of a variable of which this share is positive, approximately."""
    tilt = torch.tensor(2 * share - 1, dtype=torch.float64)
    return 0.8139535143 * 0.5 * float((1 + tilt + 1e-10).log() - (1 - tilt + 1e-10).log())


class Whiten(nn.Module):
    """Pushes the covariance of the channels, in groups, towards a multiple of the identity.

    It acts where the mean square of the covariance's eigenvalues is more than `limit` times the square of
    their mean, on a quarter of the calls. (The reference looks less often where it has last found nothing
    to do. That only saves time, and would be one more thing to keep when training is interrupted.)
    """

    def __init__(self, limit: float | Ramp, *, groups: int = 1, scale: float = 0.01) -> None:
        """
        Args:
            limit: of the metric, which is at least 1.
            groups: of channels, each with a covariance of its own.
            scale: size of the gradient that is added, relative to the gradient's.
        """
        super().__init__()
        self.limit, self.groups, self.scale = limit, groups, scale

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not by_chance(WHITEN_PROBABILITY):
            return x
        limit = value(self.limit)
        return shape_gradient(x, lambda x, grad: whitened_gradient(x, grad, limit, self.groups, self.scale))


WHITEN_PROBABILITY = 0.25


def whiteness(x: Tensor, groups: int) -> Tensor:
    """Mean square of the eigenvalues of the covariances by the square of their mean; a scalar, 1 if white."""
    return _whiteness(_covariance(_centered(x, groups)))


def _centered(x: Tensor, groups: int) -> Tensor:
    """Deviations from the mean, (G, X, E)."""
    x_XGE = x.reshape(-1, groups, x.shape[-1] // groups)
    return (x_XGE - x_XGE.mean(dim=0)).transpose(0, 1)


def _covariance(x_GXE: Tensor) -> Tensor:
    return x_GXE.transpose(1, 2) @ x_GXE


def _whiteness(covariance_GEE: Tensor) -> Tensor:
    mean = covariance_GEE.diagonal(dim1=1, dim2=2).mean()
    num_channels = covariance_GEE.shape[0] * covariance_GEE.shape[1]
    return covariance_GEE.square().sum() / (num_channels * mean.square() + TINY)


def whitened_gradient(x: Tensor, grad: Tensor, limit: float, groups: int, scale: float) -> Tensor:
    """The gradient with that of `whiteness` added where it is over the limit."""
    with torch.autocast(x.device.type, enabled=False):
        x_GXE = _centered(x.detach().float(), groups)
        covariance_GEE = _covariance(x_GXE)
        with torch.enable_grad():
            metric = _whiteness(covariance_GEE.requires_grad_())
            (slope_GEE,) = torch.autograd.grad(metric, covariance_GEE)
        if x.device.type == "cpu" and metric < limit:
            return grad
        # By the chain rule 2 x slope; the factor is of no account, the size being set below.
        penalty = (x_GXE @ slope_GEE).transpose(0, 1).reshape(x.shape)
    size = scale * grad.float().norm() / (penalty.norm() + TINY)
    return grad + (penalty * (size * (metric >= limit))).to(grad.dtype)


LIMIT_PROBABILITY = 0.6


def limit_gradient(parameter: Tensor, least: float, most: float) -> Tensor:
    """A parameter that is led back into a range: where it is out, the gradient does not lead it further.

    Acts on a share `LIMIT_PROBABILITY` of the calls.
    """
    if not by_chance(LIMIT_PROBABILITY):
        return parameter
    return shape_gradient(parameter, lambda p, grad: limited_gradient(p, grad, least, most))


def limited_gradient(parameter: Tensor, grad: Tensor, least: float, most: float) -> Tensor:
    """The gradient, turned round where a descent would lead out of the range that the parameter has left."""
    grad = torch.where((parameter < least) & (grad > 0), -grad, grad)
    return torch.where((parameter > most) & (grad < 0), -grad, grad)


def penalized_gradient(x: Tensor, grad: Tensor, limit: float, penalty: float) -> Tensor:
    """The gradient with that of `penalty` times the absolute value of what is over the limit added."""
    return grad + penalty * x.sign() * (x.abs() > limit)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` with this much of its gradient."""
    return shape_gradient(x, lambda _, grad: grad * factor)
