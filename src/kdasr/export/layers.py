"""The encoder's layers over one window of each stream, written for a runtime instead of for training.

Rows are the frames of all streams, so that a linear layer is one product of two matrices; scales and rotary
tables are folded into constants; every frame of a window is valid, so nothing is masked within it. Compare
`kdasr.models.encoders.conformer` and `kdasr.nn`, whose weights these modules take over.
"""

# Shapes: N streams, T feature frames of a window, F features, W encoder frames of a window (chunk and
# look-ahead), A left-context frames, K = A + W, H heads, E width of a head, G = E / 2, D = H * E width, R
# left frames of the convolution, P = R + W, M = N * W rows, Q = 3 (query, key, value), X = Q * D columns.

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.conformer import ConformerEncoder, ConformerLayer
from kdasr.nn.attention import ChunkedSelfAttention
from kdasr.nn.context import Context
from kdasr.nn.convolution import ChunkedConvolution
from kdasr.nn.feedforward import FeedForward
from kdasr.nn.rotary import rotary_tables


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


class AttentionGraph(nn.Module):
    """Attention of a window to itself and to a layer's cached keys and values, both (1, N, H, A, E).

    The cached keys are rotated to the positions 0 .. A - 1, the window's are A .. A + W - 1. Columns of the
    input projection are in the order (half of a head, query | key | value, head, G), so that one rotation
    (by nothing for the values) and one transposition serve all three.
    """

    cos_WX: Tensor
    sin_WX: Tensor

    def __init__(self, source: ChunkedSelfAttention, context: Context) -> None:
        super().__init__()
        dim, heads = source.project_out.in_features, source.num_heads
        self.heads, self.half_head = heads, dim // heads // 2
        self.left, self.chunk, self.window = context.left, context.chunk, context.window_frames
        # Scores are divided by sqrt(E): the queries take that over.
        like = source.project_in.weight.detach()
        scale_QHGD = like.new_tensor([(2 * self.half_head) ** -0.5, 1.0, 1.0])[:, None, None, None, None]
        weight = source.project_in.weight.unflatten(0, (3, heads, 2, self.half_head)) * scale_QHGD
        bias = source.project_in.bias.unflatten(0, (3, heads, 2, self.half_head)) * scale_QHGD[..., 0]
        self.project_in = Affine(
            weight.permute(2, 0, 1, 3, 4).reshape(3 * dim, dim), bias.permute(2, 0, 1, 3).flatten()
        )
        self.project_out = Affine.of(source.project_out)
        tables = rotary_tables(self.left + self.window, 2 * self.half_head, like)
        cos_WG, sin_WG = (table_KG[self.left :] for table_KG in tables)
        cos = like.new_ones(self.window, 3, heads, self.half_head)
        sin = like.new_zeros(self.window, 3, heads, self.half_head)
        cos[:, :2], sin[:, :2] = cos_WG[:, None, None], sin_WG[:, None, None]
        self.register_buffer("cos_WX", cos.flatten(1).repeat(1, 2))
        self.register_buffer("sin_WX", torch.cat([-sin.flatten(1), sin.flatten(1)], dim=1))

    def forward(
        self, x_MD: Tensor, keys: Tensor, values: Tensor, mask_N11K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows to rows, and the keys and values to cache (positions C .. C + A - 1 of this window)."""
        x_NWX = self.project_in(x_MD).view(-1, self.window, self.cos_WX.shape[1])
        x_NWX = rotate_halves(x_NWX, self.cos_WX, self.sin_WX)
        x = x_NWX.view(-1, self.window, 2, 3, self.heads, self.half_head).permute(3, 0, 4, 1, 2, 5)
        q, k, v = x.reshape(3, -1, self.heads, self.window, 2 * self.half_head).split(1)
        k, v = torch.cat([keys, k], dim=3), torch.cat([values, v], dim=3)
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) + mask_N11K, dim=-1)
        y_MD = torch.matmul(weights, v).transpose(2, 3).reshape(-1, 2 * self.heads * self.half_head)
        recent = slice(self.chunk, self.chunk + self.left)
        return self.project_out(y_MD), k[:, :, :, recent], v[:, :, :, recent]


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
        x_ND1P = functional.pad(x_NDP, (0, self.reach)).unsqueeze(2)
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
        self, x_MD: Tensor, keys: Tensor, values: Tensor, frames_NDR: Tensor, mask_N11K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows to rows, and what to cache of keys, values and the convolution's input."""
        x_MD = x_MD + self.feed_in(self.norms[0](x_MD))
        y_MD, keys, values = self.attention(self.norms[1](x_MD), keys, values, mask_N11K)
        x_MD = x_MD + y_MD
        y_MD, frames_NDR = self.convolution(self.norms[2](x_MD), frames_NDR)
        x_MD = x_MD + y_MD
        x_MD = x_MD + self.feed_out(self.norms[3](x_MD))
        return self.norms[4](x_MD), keys, values, frames_NDR
