"""Conformer encoder (Gulati et al. 2020) that runs whole utterances and chunks of streams alike."""

# Shapes: B streams or utterances, T feature frames (10 ms), F features, U encoder frames (40 ms), D width,
# N blocks, W frames per block (chunk and look-ahead), C frames per chunk.

from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kdasr.common.errors import UserError
from kdasr.common.ranges import LARGEST_SIZE, MOST_LAYERS, OneOf, between
from kdasr.models.encoders.base import (
    COPY,
    LOOKAHEADS,
    MASK,
    Encoder,
    EncoderConfig,
    EncoderOutput,
    Geometry,
    HiddenLayer,
    StepOutput,
)
from kdasr.nn.attention import AttentionState, ChunkedSelfAttention
from kdasr.nn.blocks import BlockPlan, clip_context, main_frames, plan_blocks, to_blocks, with_next_frames
from kdasr.nn.context import Context
from kdasr.nn.convolution import ChunkedConvolution, ConvolutionState
from kdasr.nn.dropout import Dropout
from kdasr.nn.feedforward import FeedForward
from kdasr.nn.subsampling import EXTRA_FRAMES, FACTOR, MIN_FRAMES, ConvSubsampling, FeatureNorm


@dataclass
class ConformerConfig(EncoderConfig):
    """A conformer (Gulati et al. 2020) on a 4x convolutional front end."""

    type: str = "conformer"
    num_layers: Annotated[int, between(1, MOST_LAYERS)] = 4
    """Conformer blocks."""
    dim: Annotated[int, between(2, LARGEST_SIZE)] = 128
    """Width of each block."""
    num_heads: Annotated[int, between(1, LARGEST_SIZE)] = 4
    """Attention heads; they divide `dim`."""
    ffn_dim: Annotated[int, between(1, LARGEST_SIZE)] = 512
    """Inner width of each of the two half-step feed-forward modules."""
    conv_kernel: Annotated[int, between(1, LARGEST_SIZE)] = 15
    """Depthwise kernel, odd; half of it looks back, half ahead within the chunk."""
    subsampling_channels: Annotated[int, between(1, LARGEST_SIZE)] = 32
    """Of the two convolutions that make one frame out of four."""
    dropout: Annotated[float, between(0, 1, below=True)] = 0.1
    """After attention, convolution and feed-forward modules."""
    lookahead: Annotated[str, OneOf(*LOOKAHEADS)] = COPY
    """copy: each layer computes the look-ahead anew, so it does not grow. mask: a layer sees it as the layer
    below has made it, so every layer waits for a chunk more; for comparison, without streams."""

    @property
    def geometry(self) -> Geometry:
        """A frame per four feature frames; windows overlap by three, as nothing is padded."""
        layers = (HiddenLayer(self.dim, FACTOR),) * self.num_layers
        growing = self.num_layers - 1 if self.lookahead == MASK else 0
        return Geometry(
            dim=self.dim, stride=FACTOR, overlap=EXTRA_FRAMES, hidden=layers, lookahead_layers=growing
        )

    def check(self, num_features: int) -> None:
        """
        Raises:
            UserError: naming the option and its value.
        """
        if num_features < MIN_FRAMES:
            raise UserError(f"option 'model.num_features' is {num_features}; expected at least {MIN_FRAMES}")
        if self.dim % (2 * self.num_heads):
            raise UserError(
                f"model.encoder.dim is {self.dim}; it must be a multiple of twice model.encoder.num_heads "
                f"({self.num_heads}), for heads of an even width"
            )
        if self.conv_kernel % 2 == 0:
            raise UserError(f"model.encoder.conv_kernel is {self.conv_kernel}; it must be odd")

    def build(self, num_features: int) -> "ConformerEncoder":
        """A freshly initialized conformer."""
        return ConformerEncoder(self, num_features)


class ConformerLayerState(NamedTuple):
    """What one layer remembers of each stream."""

    attention: AttentionState
    convolution: ConvolutionState


class ConformerState(NamedTuple):
    """What the encoder remembers of each stream; dimension 0 of every tensor is the stream."""

    processed_B: Tensor
    """Main frames seen so far, int64. It says which part of the layers' caches is filled."""
    layers: tuple[ConformerLayerState, ...]


class ConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step; each normalized first."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(5))
        self.feed_in = FeedForward(dim, config.ffn_dim)
        self.attention = ChunkedSelfAttention(dim, config.num_heads)
        self.convolution = ChunkedConvolution(dim, config.conv_kernel)
        self.feed_out = FeedForward(dim, config.ffn_dim)
        self.dropout = Dropout(config.dropout)

    def init_state(self, batch_size: int, left: int, like: Tensor) -> ConformerLayerState:
        """The state of streams that have seen nothing, of the type and device of `like`."""
        return ConformerLayerState(
            self.attention.init_state(batch_size, left, like), self.convolution.init_state(batch_size, like)
        )

    def forward(
        self, x_BNWD: Tensor, state: ConformerLayerState, plan: BlockPlan
    ) -> tuple[Tensor, ConformerLayerState]:
        """Blocks (B, N, W, D) and a state to blocks and the state after their main frames."""
        x_BNWD = torch.add(x_BNWD, self.dropout(self.feed_in(self.norms[0](x_BNWD))), alpha=0.5)
        y_BNWD, attention = self.attention(self.norms[1](x_BNWD), state.attention, plan)
        x_BNWD = x_BNWD + self.dropout(y_BNWD)
        y_BNWD, convolution = self.convolution(self.norms[2](x_BNWD), state.convolution, plan)
        x_BNWD = x_BNWD + self.dropout(y_BNWD)
        x_BNWD = torch.add(x_BNWD, self.dropout(self.feed_out(self.norms[3](x_BNWD))), alpha=0.5)
        return self.norms[4](x_BNWD), ConformerLayerState(attention, convolution)


class ConformerEncoder(Encoder):
    """Front end and conformer layers."""

    config: ConformerConfig

    def __init__(self, config: ConformerConfig, num_features: int) -> None:
        super().__init__(config)
        self.feature_norm = FeatureNorm(num_features)
        self.subsampling = ConvSubsampling(num_features, config.subsampling_channels, config.dim)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(config.num_layers))
        self._recomputes = False

    def recompute_layers(self) -> None:
        """See `Encoder.recompute_layers`."""
        self._recomputes = True

    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Normalize features by these."""
        self.feature_norm.set_stats(mean_F, std_F)

    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> ConformerState:
        """The state of streams that have seen nothing. See `Encoder.init_state`."""
        self.check_stream(context)
        return self._zero_state(batch_size, context.left, device)

    def forward(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances. See `Encoder.forward`."""
        x_BUD = self._front_end(features_BTF)
        lens_B = self.geometry.num_frames(feature_lens_B.cpu())
        num_frames = x_BUD.shape[1]
        if num_frames == 0:
            return EncoderOutput(x_BUD, lens_B, [x_BUD for _ in self.layers])
        left, chunk, right = clip_context(context, num_frames)
        state = self._zero_state(x_BUD.shape[0], left, x_BUD.device)
        there_B = lens_B.to(x_BUD.device, non_blocking=True)
        blocks, _ = self._run_layers(to_blocks(x_BUD, chunk, right), there_B, state, chunk)
        hidden = [main_frames(x_BNWD, chunk)[:, :num_frames] for x_BNWD in blocks]
        return EncoderOutput(hidden[-1], lens_B, hidden)

    def step(
        self,
        features_BWF: Tensor,
        state: ConformerState,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """Encode one window of each stream. See `Encoder.step`."""
        self.check_window(features_BWF, context)
        x_BWD = self._front_end(features_BWF)
        if feature_lens_B is None:
            lens_B = torch.full_like(state.processed_B, context.window_frames)
        else:
            lens_B = self.geometry.num_frames(feature_lens_B.to(x_BWD.device, non_blocking=True))
        blocks, state = self._run_layers(x_BWD.unsqueeze(1), lens_B, state, context.chunk)
        return StepOutput(main_frames(blocks[-1], context.chunk), lens_B.clamp(max=context.chunk), state)

    def _front_end(self, features_BTF: Tensor) -> Tensor:
        return self.dropout(self.subsampling(self.feature_norm(features_BTF)))

    def _zero_state(self, batch_size: int, left: int, device: torch.device | str | None) -> ConformerState:
        like = self.feature_norm.mean_F.new_empty(0, device=device)
        layers = (cast(ConformerLayer, layer) for layer in self.layers)
        return ConformerState(
            torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            tuple(layer.init_state(batch_size, left, like) for layer in layers),
        )

    def _run_layers(
        self, x_BNWD: Tensor, lens_B: Tensor, state: ConformerState, chunk: int
    ) -> tuple[list[Tensor], ConformerState]:
        """Every layer's blocks, and the state after them."""
        left = state.layers[0].attention.keys_BLD.shape[1]
        head_dim = self.config.dim // self.config.num_heads
        plan = plan_blocks(x_BNWD, lens_B, state.processed_B, left, chunk, head_dim)
        outputs: list[Tensor] = []
        layer_states = []
        for layer, layer_state in zip(self.layers, state.layers, strict=True):
            if outputs and self.config.lookahead == MASK:
                x_BNWD = with_next_frames(x_BNWD, chunk)
            if self._recomputes and torch.is_grad_enabled():
                # Dropout draws the same numbers again: the random state is put back for the second pass.
                x_BNWD, new_state = checkpoint(layer, x_BNWD, layer_state, plan, use_reentrant=False)
            else:
                x_BNWD, new_state = layer(x_BNWD, layer_state, plan)
            outputs.append(x_BNWD)
            layer_states.append(new_state)
        # The caches take whole chunks. A shorter one ends its stream, so its count is never read again.
        processed_B = state.processed_B + x_BNWD.shape[1] * chunk
        return outputs, ConformerState(processed_B, tuple(layer_states))
