"""The encoder's layers over one window of each stream, written for a runtime instead of for training.

Rows are the frames of all streams, so that a linear layer is one product of two matrices; scales and rotary
tables are folded into constants; every frame of a window is valid, so nothing is masked within it. Compare
`kdasr.models.encoders.conformer` and `kdasr.nn`, whose weights these modules take over.
"""

# Shapes: N streams, T feature frames of a window, F features, W encoder frames of a window (chunk and
# look-ahead), A left-context frames, H heads, E width of a head, G = E / 2, D = H * E width, R left frames of
# the convolution, P = R + W, M = N * W rows, Q = 3 (query, key, value), X = Q * D columns.

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.conformer import ConformerEncoder, ConformerLayer
from kdasr.nn.attention import ChunkedSelfAttention
from kdasr.nn.context import Context
from kdasr.nn.convolution import ChunkedConvolution
from kdasr.nn.feedforward import FeedForward
from kdasr.nn.rotary import BASE
from kdasr.nn.subsampling import FACTOR


class Place(NamedTuple):
    """Where the windows of streams are, for all layers alike."""

    mask_N11A: Tensor
    """0 for cached keys that are filled, minus infinity for the others."""
    cos_NWX: Tensor
    sin_NWX: Tensor
    """For `rotate_halves` of queries, keys and values."""


class Affine(nn.Module):
    """x W + b, which becomes the MatMul and Add that quantization and runtimes recognize."""

    weight_IO: Tensor
    bias_O: Tensor

    def __init__(self, weight_OI: Tensor, bias_O: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_IO", weight_OI.detach().t().contiguous())
        self.register_buffer("bias_O", bias_O.detach().clone())

    @property
    def in_features(self) -> int:
        """I, as of `nn.Linear`."""
        return self.weight_IO.shape[0]

    @property
    def out_features(self) -> int:
        """O."""
        return self.weight_IO.shape[1]

    @classmethod
    def of(cls, linear: nn.Linear) -> "Affine":
        """The same map as `linear`."""
        return cls(linear.weight, linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight_IO) + self.bias_O


class FrontEndGraph(nn.Module):
    """Normalization and the 4x front end: windows (N, T, F) to rows (M, D)."""

    def __init__(self, encoder: ConformerEncoder) -> None:
        super().__init__()
        source = encoder.subsampling
        self.norm = encoder.feature_norm
        self.first, self.depthwise, self.pointwise = source.first, source.depthwise, source.pointwise
        # The projection takes channels before features here: the order in which convolutions leave them.
        weight_OFC = source.project.weight.unflatten(1, (-1, source.first.out_channels))
        self.project = Affine(weight_OFC.transpose(1, 2).flatten(1), source.project.bias)

    def forward(self, x_NTF: Tensor) -> Tensor:
        x = functional.relu(self.first(self.norm(x_NTF).unsqueeze(1)))
        x = functional.relu(self.pointwise(self.depthwise(x)))
        return self.project(x.transpose(1, 2).reshape(-1, self.project.weight_IO.shape[0]))


class FeedForwardGraph(nn.Module):
    """A feed-forward module, the conformer's half step folded into its last layer."""

    def __init__(self, source: FeedForward) -> None:
        super().__init__()
        self.expand = Affine.of(source.expand)
        self.project = Affine(0.5 * source.project.weight, 0.5 * source.project.bias)

    def forward(self, x_MD: Tensor) -> Tensor:
        return self.project(functional.silu(self.expand(x_MD)))


class Turns(nn.Module):
    """By how much the frames of windows are rotated: by their places in the stream, however long it is.

    Places are multiplied by the frequencies in float64 and counted in turns, of which the whole ones do not
    matter. So hours from the start of a stream an angle is as exact as at its beginning.
    """

    turns_X: Tensor
    offsets_W1: Tensor

    def __init__(self, window: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.half_head = heads, head_dim // 2
        exponents_G = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
        turns_G = BASE**-exponents_G / (2 * pi * FACTOR)
        # For second halves, for values, and for first halves, whose sines are negative.
        self.register_buffer("turns_X", torch.cat([turns_G, torch.zeros_like(turns_G), -turns_G]))
        self.register_buffer("offsets_W1", FACTOR * torch.arange(window).unsqueeze(1))

    def forward(self, processed_N: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, W, X) of windows after so many feature frames, of the type of `like`."""
        places_NW1 = processed_N.unsqueeze(-1).unsqueeze(-1) + self.offsets_W1
        turns_NWX = places_NW1.to(torch.float64) * self.turns_X
        angles_NWX = (2 * pi * (turns_NWX - turns_NWX.to(torch.int64))).to(like.dtype)
        cos, ones, _ = angles_NWX.cos().split(self.half_head, dim=2)
        sin, zeros, negative = angles_NWX.sin().split(self.half_head, dim=2)
        # Columns: first halves of queries, keys and values, then second halves.
        rotated, still = 2 * self.heads, self.heads
        return (
            torch.cat(2 * (rotated * [cos] + still * [ones]), dim=2),
            torch.cat(rotated * [negative] + still * [zeros] + rotated * [sin] + still * [zeros], dim=2),
        )


class AttentionGraph(nn.Module):
    """Attention of a window to itself and to a layer's cached keys and values, both (1, N, H, A, E).

    Keys are cached as they are rotated. Columns of the input projection are in the order (half of a head,
    query | key | value, head, G), so that one rotation (by nothing for the values) and one transposition
    serve all three.
    """

    def __init__(self, source: ChunkedSelfAttention, context: Context) -> None:
        super().__init__()
        dim, heads = source.project_out.in_features, source.num_heads
        self.heads, self.half_head = heads, dim // heads // 2
        self.left, self.window = context.left, context.window_frames
        # Scores are divided by sqrt(E): the queries take that over.
        like = source.project_in.weight.detach()
        scale_QHGD = like.new_tensor([(2 * self.half_head) ** -0.5, 1.0, 1.0])[:, None, None, None, None]
        weight = source.project_in.weight.unflatten(0, (3, heads, 2, self.half_head)) * scale_QHGD
        bias = source.project_in.bias.unflatten(0, (3, heads, 2, self.half_head)) * scale_QHGD[..., 0]
        self.project_in = Affine(
            weight.permute(2, 0, 1, 3, 4).reshape(3 * dim, dim), bias.permute(2, 0, 1, 3).flatten()
        )
        self.project_out = Affine.of(source.project_out)

    def forward(self, x_MD: Tensor, keys: Tensor, values: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """Rows to rows, and the keys and values of the window (2, N, H, W, E)."""
        x_NWX = self.project_in(x_MD).view(-1, self.window, 6 * self.heads * self.half_head)
        x_NWX = rotate_halves(x_NWX, place.cos_NWX, place.sin_NWX)
        x = x_NWX.view(-1, self.window, 2, 3, self.heads, self.half_head).permute(3, 0, 4, 1, 2, 5)
        q, kv = x.reshape(3, -1, self.heads, self.window, 2 * self.half_head).split([1, 2])
        k, v = kv.split(1)
        before = torch.matmul(q, keys.transpose(-1, -2)) + place.mask_N11A
        scores = torch.cat([before, torch.matmul(q, k.transpose(-1, -2))], dim=-1)
        before, within = torch.softmax(scores, dim=-1).split([self.left, self.window], dim=-1)
        y = torch.matmul(before, values) + torch.matmul(within, v)
        y_MD = y.transpose(2, 3).reshape(-1, 2 * self.heads * self.half_head)
        return self.project_out(y_MD), kv


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (..., first half | second half); `sin` is negative in its first half."""
    first, second = x.split(x.shape[-1] // 2, dim=-1)
    return x * cos + torch.cat([second, first], dim=-1) * sin


class ConvolutionGraph(nn.Module):
    """The convolution module over a window and a layer's cached frames (N, D, R)."""

    def __init__(self, source: ChunkedConvolution, context: Context) -> None:
        super().__init__()
        self.dim = source.project.in_features
        self.reach, self.chunk, self.window = source.reach, context.chunk, context.window_frames
        self.expand = Affine.of(source.expand)
        self.depthwise, self.norm = source.depthwise, source.norm
        self.project = Affine.of(source.project)

    def forward(self, x_MD: Tensor, cache_NDR: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to rows, and the frames to cache."""
        x_MD = functional.glu(self.expand(x_MD))
        x_NDW = x_MD.view(-1, self.window, self.dim).transpose(1, 2)
        x_NDP = torch.cat([cache_NDR, x_NDW], dim=2)
        # In two dimensions onnxruntime takes its blocked kernels, in one it does not: 15 % of the encoder.
        x_ND1P = functional.pad(x_NDP.unsqueeze(2), (0, self.reach))
        weight, bias = self.depthwise.weight.unsqueeze(2), self.depthwise.bias
        y_NDW = functional.conv2d(x_ND1P, weight, bias, groups=self.dim).squeeze(2)
        y_MD = self.norm(y_NDW.transpose(1, 2).reshape(-1, self.dim))
        recent_NDR = x_NDP[:, :, self.chunk : self.chunk + self.reach]
        return self.project(functional.silu(y_MD)), recent_NDR


class LayerGraph(nn.Module):
    """A conformer layer."""

    def __init__(self, source: ConformerLayer, context: Context) -> None:
        super().__init__()
        self.norms = source.norms
        self.feed_in = FeedForwardGraph(source.feed_in)
        self.attention = AttentionGraph(source.attention, context)
        self.convolution = ConvolutionGraph(source.convolution, context)
        self.feed_out = FeedForwardGraph(source.feed_out)

    def forward(
        self, x_MD: Tensor, keys: Tensor, values: Tensor, frames_NDR: Tensor, place: Place
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows to rows, the window's keys and values (2, N, H, W, E), and what the convolution caches."""
        x_MD = x_MD + self.feed_in(self.norms[0](x_MD))
        y_MD, kv = self.attention(self.norms[1](x_MD), keys, values, place)
        x_MD = x_MD + y_MD
        y_MD, frames_NDR = self.convolution(self.norms[2](x_MD), frames_NDR)
        x_MD = x_MD + y_MD
        x_MD = x_MD + self.feed_out(self.norms[3](x_MD))
        return self.norms[4](x_MD), kv, frames_NDR
