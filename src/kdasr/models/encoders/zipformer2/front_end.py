"""The convolutions that make frames of 20 ms out of feature frames."""

# Shapes: B streams or utterances, T feature frames, F features, H channels, U frames of 20 ms, V features
# that are left, Z = U + 6, D width.

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.zipformer2.random_parts import TimeDropout, masked, of_utterances
from kdasr.nn.bias_norm import BiasNorm
from kdasr.nn.gradient_shaping import Balancer, Whiten, scale_gradient
from kdasr.nn.linear import Linear, linear
from kdasr.nn.schedule import Clock
from kdasr.nn.swoosh import swoosh_left, swoosh_right

HIDDEN = 3
"""Inner width of the ConvNeXt block, in widths."""
REACH = 3
"""Frames that the ConvNeXt block looks back and ahead."""


def num_features_left(num_features: int) -> int:
    """V."""
    return ((num_features - 1) // 2 - 1) // 2


class FrontEnd(nn.Module):
    """Three convolutions, the second and third of stride 2 over features, the second also over time; then a
    block of ConvNeXt (Liu et al. 2022) and a projection.

    `convolve`, `mix` and `project` follow each other; what lies between is the caller's: the edges.
    """

    def __init__(self, num_features: int, channels: tuple[int, int, int], dim: int, clock: Clock) -> None:
        """
        Args:
            num_features: F.
            channels: of the three convolutions; the last is H.
            dim: D.
            clock: of the schedules.
        """
        super().__init__()
        first, second, third = channels
        left = num_features_left(num_features)
        often = clock.ramp((0, 0.5), (8000, 0.125))
        self.first = nn.Conv2d(1, first, 3, padding=(0, 1))
        self.second = nn.Conv2d(first, second, 3, stride=2)
        self.third = nn.Conv2d(second, third, 3, stride=(1, 2))
        self.balancers = nn.ModuleList(
            Balancer(often, max_abs=size, channel_dim=1) for size in (1.0, 4.0, 4.0)
        )
        self.depthwise = nn.Conv2d(third, third, 2 * REACH + 1, padding=(0, REACH), groups=third)
        self.expand = nn.Conv2d(third, HIDDEN * third, 1)
        self.contract = nn.Conv2d(HIDDEN * third, third, 1)
        self.hidden_balancer = Balancer(
            often, min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0, channel_dim=1
        )
        self.mixed_balancer = Balancer(
            often, min_positive=0.4, max_positive=0.6, min_abs=1.0, max_abs=6.0, channel_dim=1
        )
        self.mixed_whiten = Whiten(5.0)
        self.skip_rate = clock.ramp((0, 0.2), (20000, 0.015))
        self.output = Linear(third * left, dim)
        self.whiten = Whiten(clock.ramp((0, 4.0), (20000, 8.0)), scale=0.02)
        self.norm = BiasNorm(dim)
        self.dropout = TimeDropout(clock.ramp((0, 0.3), (20000, 0.1)))
        with torch.no_grad():
            self.contract.weight.mul_(0.01)
            nn.init.uniform_(self.contract.bias, -0.001, 0.001)  # type: ignore[arg-type]

    def init_state(self, batch_size: int, like: Tensor) -> Tensor:
        """The frames (B, H, 3, V) before the start of a stream: zeros."""
        channels = self.third.out_channels
        return like.new_zeros(batch_size, channels, REACH, self.output.in_features // channels)

    def convolve(self, x_BTF: Tensor) -> Tensor:
        """(B, T, F) to (B, H, (T - 7) // 2, V); frame u is computed from feature frames 2u to 2u + 6."""
        x_BHTF = x_BTF.unsqueeze(-1).permute(0, 3, 1, 2)
        x_BHTF = self.first(x_BHTF)
        if self.training:
            x_BHTF = scale_gradient(x_BHTF, 0.2)
        x_BHTF = swoosh_right(self.balancers[0](x_BHTF))
        x_BHTF = swoosh_right(self.balancers[1](self.second(x_BHTF)))
        return swoosh_right(self.balancers[2](self.third(x_BHTF)))

    def mix(self, x_BHZV: Tensor) -> Tensor:
        """The ConvNeXt block, (B, H, Z, V) to (B, H, U, V): three frames before and after are for context."""
        y_BHUV = self.hidden_balancer(pointwise(self.depthwise(x_BHZV), self.expand))
        y_BHUV = pointwise(swoosh_left(y_BHUV), self.contract)
        skip_rate = self.skip_rate() if self.training else 0.0
        y_BHUV = x_BHZV[:, :, REACH:-REACH] + masked(y_BHUV, of_utterances(y_BHUV, skip_rate))
        y_BHUV = self.mixed_balancer(y_BHUV)
        return self.mixed_whiten(y_BHUV.movedim(1, -1)).movedim(-1, 1) if self.training else y_BHUV

    def project(self, x_BHUV: Tensor) -> Tensor:
        """(B, H, U, V) to (B, U, D)."""
        y_BUD = self.output(x_BHUV.transpose(1, 2).flatten(2))
        return self.dropout(self.norm(self.whiten(y_BUD)))


def pointwise(x_BHUV: Tensor, conv: nn.Conv2d) -> Tensor:
    """A convolution of one tap. In training it is a product: faster, where channels are last in memory."""
    if not conv.training:
        return conv(x_BHUV)
    return linear(x_BHUV.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def padded(x_BHUV: Tensor) -> Tensor:
    """Zeros for the three frames before and after."""
    return functional.pad(x_BHUV, (0, 0, REACH, REACH))
