"""Feature normalization and the 4x convolutional front end."""

# Shapes: B utterances, T feature frames (10 ms), U encoder frames (40 ms), F features, D width.

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.linear import Linear

FACTOR = 4
"""Feature frames per encoder frame."""
MIN_FRAMES = 7
"""Feature frames that the first encoder frame sees."""
EXTRA_FRAMES = MIN_FRAMES - FACTOR
"""A window of FACTOR * n + EXTRA_FRAMES feature frames gives n encoder frames."""

LengthT = TypeVar("LengthT", int, Tensor)


def subsampled_length(num_frames: LengthT) -> LengthT:
    """Encoder frames that `num_frames` feature frames give, 0 for fewer than 7; for int or int64 tensors."""
    length = (num_frames - EXTRA_FRAMES) // FACTOR
    return length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)


class FeatureNorm(nn.Module):
    """Subtracts the mean and divides by the standard deviation of a corpus, per feature.

    The statistics are part of the model, so that callers and exported graphs give raw log-mel energies.
    """

    mean_F: Tensor
    inverse_std_F: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean_F", torch.zeros(num_features))
        self.register_buffer("inverse_std_F", torch.ones(num_features))

    def set_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Store the statistics; a feature that hardly varies is not blown up."""
        self.mean_F.copy_(mean_F)
        self.inverse_std_F.copy_(1.0 / std_F.clamp(min=1e-3))

    def forward(self, x_BTF: Tensor) -> Tensor:
        return (x_BTF - self.mean_F) * self.inverse_std_F


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 without padding, then a projection: 4 n + 3 feature frames to n.

    Without padding, a window in the middle of a stream gives the frames that the whole utterance gives. The
    second convolution is depthwise-separable, which halves the time of the front end on a CPU.
    """

    def __init__(self, num_features: int, channels: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, stride=2)
        self.depthwise = nn.Conv2d(channels, channels, 3, stride=2, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.project = Linear(channels * subsampled_length(num_features), dim)

    def forward(self, x_BTF: Tensor) -> Tensor:
        """(B, T, F) to (B, U, D) with U = subsampled_length(T)."""
        if x_BTF.shape[1] < MIN_FRAMES:
            return x_BTF.new_zeros(x_BTF.shape[0], 0, self.project.out_features)
        # Channels last: with channels first the same convolutions take three times as long on the CPU.
        x_BCTF = x_BTF.unsqueeze(-1).permute(0, 3, 1, 2)
        x_BCTF = functional.relu(self.first(x_BCTF))
        x_BCUF = functional.relu(self.pointwise(self.depthwise(x_BCTF)))
        return self.project(x_BCUF.permute(0, 2, 3, 1).flatten(2))
