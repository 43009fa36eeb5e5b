"""FastConformer encoder (Rekesh et al. 2023) of whole utterances, as NeMo has it: a teacher, not a student.

A conformer with relative positions (Dai et al. 2019) on a front end that makes one frame out of eight. The
names of its weights are NeMo's. Each feature is normalized over its utterance, so that no frame is known
before the end: it runs under the full context alone.
"""

# Shapes: B utterances, T feature frames (10 ms), F features, U encoder frames (80 ms), D width, H heads,
# K width of a head, P = 2 U - 1 distances, C channels.

import math
from dataclasses import dataclass
from typing import Annotated, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import NEMO
from kdasr.common.ranges import LARGEST_SIZE, MOST_LAYERS, between
from kdasr.models.encoders.base import (
    Encoder,
    EncoderConfig,
    EncoderOutput,
    EncoderState,
    Geometry,
    HiddenLayer,
    LengthT,
    StepOutput,
)
from kdasr.nn.context import Context
from kdasr.nn.dropout import Dropout
from kdasr.nn.linear import Linear

FACTOR = 8
SYMBOLS_PER_FRAME = 10
"""As in NeMo's greedy search."""
_HALVINGS = 3
_EPSILON = 1e-5


@dataclass
class FastConformerConfig(EncoderConfig):
    """A FastConformer (Rekesh et al. 2023) for whole utterances: NeMo's models as teachers."""

    type: str = "fast-conformer"
    num_layers: Annotated[int, between(1, MOST_LAYERS)] = 17
    """Conformer blocks."""
    dim: Annotated[int, between(2, LARGEST_SIZE)] = 512
    """Width of each block."""
    num_heads: Annotated[int, between(1, LARGEST_SIZE)] = 8
    """Attention heads; they divide `dim`."""
    ffn_dim: Annotated[int, between(1, LARGEST_SIZE)] = 2048
    """Inner width of each of the two half-step feed-forward modules."""
    conv_kernel: Annotated[int, between(1, LARGEST_SIZE)] = 9
    """Depthwise kernel, odd."""
    subsampling_channels: Annotated[int, between(1, LARGEST_SIZE)] = 256
    """Of the convolutions that make one frame out of eight."""
    input_scale: bool = False
    """Whether frames are multiplied by the square root of `dim` before the first block (`xscaling`)."""
    bias: bool = True
    """Whether linear layers and convolutions of the blocks have a bias (`use_bias`)."""
    dropout: Annotated[float, between(0, 1, below=True)] = 0.1
    """After the front end and after each module, and of the attention's weights."""

    @property
    def geometry(self) -> Geometry:
        """A frame per eight feature frames, the last one of those that are left."""
        layers = (HiddenLayer(self.dim, FACTOR),) * self.num_layers
        return Geometry(
            dim=self.dim,
            stride=FACTOR,
            overlap=1 - FACTOR,
            hidden=layers,
            features=NEMO,
            symbols_per_frame=SYMBOLS_PER_FRAME,
        )

    def check(self, num_features: int) -> None:
        """
        Raises:
            UserError: naming the option and its value.
        """
        if self.dim % self.num_heads or self.dim % 2:
            raise UserError(
                f"model.encoder.dim is {self.dim}; it must be even, and a multiple of "
                f"model.encoder.num_heads ({self.num_heads})"
            )
        if self.conv_kernel % 2 == 0:
            raise UserError(f"model.encoder.conv_kernel is {self.conv_kernel}; it must be odd")

    def check_context(self, context: Context) -> None:
        """
        Raises:
            UserError: a context of chunks.
        """
        if not context.is_full:
            raise UserError(
                f"context '{context}': encoders of type '{self.type}' hear whole utterances only; "
                "a streaming student has another type"
            )

    def build(self, num_features: int) -> "FastConformerEncoder":
        """A freshly initialized encoder."""
        return FastConformerEncoder(self, num_features)


class FeedForward(nn.Module):
    """Two linear layers with swish in between."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.linear1 = Linear(config.dim, config.ffn_dim, config.bias)
        self.linear2 = Linear(config.ffn_dim, config.dim, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BUD: Tensor) -> Tensor:
        return self.linear2(self.dropout(functional.silu(self.linear1(x_BUD))))


class Convolution(nn.Module):
    """A gated pointwise, a depthwise and another pointwise convolution; frames beyond the end are zero."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        dim, kernel, bias = config.dim, config.conv_kernel, config.bias
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=bias)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=bias)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=bias)

    def forward(self, x_BUD: Tensor, inside_BU: Tensor) -> Tensor:
        x_BDU = functional.glu(self.pointwise_conv1(x_BUD.transpose(1, 2)), dim=1)
        x_BDU = x_BDU.masked_fill(~inside_BU[:, None], 0.0)
        x_BDU = functional.silu(self.batch_norm(self.depthwise_conv(x_BDU)))
        return self.pointwise_conv2(x_BDU).transpose(1, 2)


class RelativeAttention(nn.Module):
    """Self-attention whose scores are those of contents and of distances, each with a bias (Dai et al. 2019,
    section 3.3)."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        dim, heads = config.dim, config.num_heads
        self.linear_q = Linear(dim, dim, config.bias)
        self.linear_k = Linear(dim, dim, config.bias)
        self.linear_v = Linear(dim, dim, config.bias)
        self.linear_out = Linear(dim, dim, config.bias)
        self.linear_pos = Linear(dim, dim, bias=False)
        self.pos_bias_u = nn.Parameter(torch.zeros(heads, dim // heads))
        self.pos_bias_v = nn.Parameter(torch.zeros(heads, dim // heads))
        self._dropout = config.dropout

    def forward(self, x_BUD: Tensor, distances_PD: Tensor, inside_BU: Tensor) -> Tensor:
        heads = self.pos_bias_u.shape[0]
        query_BUHK, key_BUHK, value_BUHK = (
            layer(x_BUD).unflatten(2, (heads, -1)) for layer in (self.linear_q, self.linear_k, self.linear_v)
        )
        scale = query_BUHK.shape[-1] ** -0.5
        position_PHK = self.linear_pos(distances_PD).unflatten(1, (heads, -1))
        by_distance_BHUP = torch.einsum("buhk,phk->bhup", query_BUHK + self.pos_bias_v, position_PHK)
        scores_BHUU = _by_place(by_distance_BHUP) * scale
        scores_BHUU = scores_BHUU.masked_fill(~inside_BU[:, None, None], -math.inf)
        heard_BHUK = functional.scaled_dot_product_attention(
            (query_BUHK + self.pos_bias_u).transpose(1, 2),
            key_BUHK.transpose(1, 2),
            value_BUHK.transpose(1, 2),
            attn_mask=scores_BHUU,
            dropout_p=self._dropout if self.training else 0.0,
        )
        return self.linear_out(heard_BHUK.transpose(1, 2).flatten(2))


def _by_place(by_distance_BHUP: Tensor) -> Tensor:
    """Scores (B, H, U, U) of queries and keys from those of queries and distances, the largest first: that of
    query q and key k is at the distance q - k."""
    num_frames = by_distance_BHUP.shape[2]
    places_U = torch.arange(num_frames, device=by_distance_BHUP.device)
    index_UU = num_frames - 1 - places_U[:, None] + places_U
    return by_distance_BHUP.gather(3, index_UU.expand(*by_distance_BHUP.shape[:2], -1, -1))


class FastConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step; each normalized first."""

    def __init__(self, config: FastConformerConfig) -> None:
        super().__init__()
        self.norm_feed_forward1 = nn.LayerNorm(config.dim)
        self.feed_forward1 = FeedForward(config)
        self.norm_self_att = nn.LayerNorm(config.dim)
        self.self_attn = RelativeAttention(config)
        self.norm_conv = nn.LayerNorm(config.dim)
        self.conv = Convolution(config)
        self.norm_feed_forward2 = nn.LayerNorm(config.dim)
        self.feed_forward2 = FeedForward(config)
        self.norm_out = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BUD: Tensor, distances_PD: Tensor, inside_BU: Tensor) -> Tensor:
        x_BUD = x_BUD + 0.5 * self.dropout(self.feed_forward1(self.norm_feed_forward1(x_BUD)))
        heard_BUD = self.self_attn(self.norm_self_att(x_BUD), distances_PD, inside_BU)
        x_BUD = x_BUD + self.dropout(heard_BUD)
        x_BUD = x_BUD + self.dropout(self.conv(self.norm_conv(x_BUD), inside_BU))
        x_BUD = x_BUD + 0.5 * self.dropout(self.feed_forward2(self.norm_feed_forward2(x_BUD)))
        return self.norm_out(x_BUD)


class Subsampling(nn.Module):
    """Three convolutions of stride 2, the last two depthwise with a pointwise one after each."""

    def __init__(self, num_features: int, channels: int, dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.ReLU()]
        for _ in range(_HALVINGS - 1):
            depthwise = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels)
            layers += [depthwise, nn.Conv2d(channels, channels, 1), nn.ReLU()]
        self.conv = nn.ModuleList(layers)
        left = num_features
        for _ in range(_HALVINGS):
            left = _halved(left)
        self.out = Linear(channels * left, dim)

    def forward(self, features_BTF: Tensor, lens_B: Tensor) -> tuple[Tensor, Tensor]:
        """Frames (B, U, D) and their lengths; what is beyond the end is zero for every convolution."""
        x_BCTF = features_BTF.unsqueeze(1)
        for layer in self.conv:
            x_BCTF = layer(x_BCTF)
            if isinstance(layer, nn.Conv2d):
                if layer.stride[0] == 2:
                    lens_B = _halved(lens_B)
                x_BCTF = x_BCTF * _inside(lens_B, x_BCTF.shape[2])[:, None, :, None]
        return self.out(x_BCTF.transpose(1, 2).flatten(2)), lens_B


def _halved(length: LengthT) -> LengthT:
    return (length + 1) // 2


def _inside(lens_B: Tensor, size: int) -> Tensor:
    return torch.arange(size, device=lens_B.device) < lens_B[:, None]


class FastConformerEncoder(Encoder):
    """Front end and conformer layers. Under the full context only."""

    config: FastConformerConfig

    def __init__(self, config: FastConformerConfig, num_features: int) -> None:
        super().__init__(config)
        self.pre_encode = Subsampling(num_features, config.subsampling_channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(FastConformerLayer(config) for _ in range(config.num_layers))
        self._recomputes = False

    def recompute_layers(self) -> None:
        """See `Encoder.recompute_layers`."""
        self._recomputes = True

    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Nothing to do: features are normalized by those of each utterance."""

    def forward(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances. See `Encoder.forward`."""
        self.config.check_context(context)
        lens_B = feature_lens_B.to(features_BTF.device, non_blocking=True)
        if features_BTF.shape[1] == 0:
            empty_BUD = features_BTF.new_zeros(len(features_BTF), 0, self.config.dim)
            return EncoderOutput(empty_BUD, lens_B.cpu(), [empty_BUD for _ in self.layers])
        x_BUD, frames_B = self.pre_encode(normalized(features_BTF, lens_B), lens_B)
        if self.config.input_scale:
            x_BUD = x_BUD * math.sqrt(self.config.dim)
        x_BUD = self.dropout(x_BUD)
        # An utterance without a frame looks at its padding, or its attention would be undefined.
        inside_BU = _inside(frames_B.clamp(min=1), x_BUD.shape[1])
        distances_PD = self.dropout(distance_codes(x_BUD.shape[1], self.config.dim, x_BUD))
        hidden = []
        for layer in self.layers:
            if self._recomputes and torch.is_grad_enabled():
                x_BUD = checkpoint(layer, x_BUD, distances_PD, inside_BU, use_reentrant=False)
            else:
                x_BUD = layer(x_BUD, distances_PD, inside_BU)
            hidden.append(x_BUD)
        return EncoderOutput(x_BUD, self.geometry.num_frames(feature_lens_B.cpu()), hidden)

    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> EncoderState:
        """
        Raises:
            UserError: always.
        """
        self._refuse(context)

    def step(
        self,
        features_BWF: Tensor,
        state: EncoderState,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """
        Raises:
            UserError: always.
        """
        self._refuse(context)

    def _refuse(self, context: Context) -> NoReturn:
        self.check_stream(context)
        raise AssertionError("a stream has chunks")


def normalized(features_BTF: Tensor, lens_B: Tensor) -> Tensor:
    """Each feature with mean 0 and standard deviation 1 over its utterance; zero beyond the end."""
    inside_BT1 = _inside(lens_B, features_BTF.shape[1]).unsqueeze(2)
    count_B11 = lens_B[:, None, None]
    mean_B1F = (features_BTF * inside_BT1).sum(1, keepdim=True) / count_B11.clamp(min=1)
    apart_BTF = (features_BTF - mean_B1F) * inside_BT1
    variance_B1F = apart_BTF.square().sum(1, keepdim=True) / (count_B11 - 1).clamp(min=1)
    return apart_BTF / (variance_B1F.sqrt() + _EPSILON)


def distance_codes(num_frames: int, dim: int, like: Tensor) -> Tensor:
    """Sines and cosines in turn of the distances from U - 1 down to 1 - U, (P, D)."""
    distance_P = torch.arange(num_frames - 1, -num_frames, -1, device=like.device, dtype=torch.float32)
    even = torch.arange(0, dim, 2, device=like.device, dtype=torch.float32)
    angle = distance_P[:, None] * torch.exp(even * (-math.log(10000.0) / dim))
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).to(like.dtype)
