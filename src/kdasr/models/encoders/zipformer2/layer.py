"""One layer, and its simple parts."""

# Shapes: B streams or utterances, N blocks, W frames of a block, L frames before it, H = kernel // 2,
# K = L + W, R relative positions, P width of a position, D width.

from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdasr.models.encoders.zipformer2.attention import AttentionWeights, NonlinAttention, SelfAttention
from kdasr.models.encoders.zipformer2.config import StackSizes
from kdasr.models.encoders.zipformer2.convolution import ConvolutionModule
from kdasr.models.encoders.zipformer2.frames import Frames
from kdasr.models.encoders.zipformer2.random_parts import TimeDropout, masked, of_utterances
from kdasr.models.encoders.zipformer2.scaled import scaled_linear
from kdasr.nn.bias_norm import BiasNorm
from kdasr.nn.gradient_shaping import Balancer, Whiten, by_chance, limit_gradient
from kdasr.nn.linear import Linear
from kdasr.nn.schedule import Clock, Ramp
from kdasr.nn.swoosh import swoosh_left


class LayerState(NamedTuple):
    """What one layer remembers of each stream: its last L frames, and H of the convolutions.

    In icefall's order of states, but with the stream first and time second everywhere.
    """

    keys_BLD: Tensor
    gated_BLD: Tensor
    """Of the non-linear attention."""
    values1_BLD: Tensor
    values2_BLD: Tensor
    convolution1_BHD: Tensor
    convolution2_BHD: Tensor


class ZipformerFeedForward(nn.Module):
    """Two linear layers around SwooshL."""

    def __init__(self, dim: int, hidden: int, clock: Clock) -> None:
        super().__init__()
        self.expand = Linear(dim, hidden)
        self.balancer = Balancer(
            clock.ramp((0, 0.5), (8000, 0.125)), min_positive=0.3, max_positive=1.0, min_abs=0.75, max_abs=5.0
        )
        self.dropout = TimeDropout(clock.ramp((0, 0.3), (20000, 0.1)))
        self.output = scaled_linear(hidden, dim, 0.1)
        self.whiten = Whiten(clock.ramp((0, 7.5), (20000, 15.0)))

    def forward(self, x: Tensor) -> Tensor:
        x = swoosh_left(self.balancer(self.expand(x)))
        return self.whiten(self.output(self.dropout(x)))


class Bypass(nn.Module):
    """A way around modules: a learnt mean, channel by channel, of what went in and what came out."""

    def __init__(self, dim: int, clock: Clock, skip_rate: Ramp | None = None) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.5))
        self.least = clock.ramp((0, 0.9), (20000, 0.2))
        self.skip_rate = skip_rate

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        scale: Tensor = self.scale
        if self.training:
            scale = limit_gradient(scale, self.least(), 1.0)
            if self.skip_rate is not None:
                scale = masked(scale, of_utterances(before, self.skip_rate()))
        return before + (after - before) * scale


class LayerChoice(NamedTuple):
    """What a call of a layer leaves out: masks (B, 1, 1, 1) of the utterances, None for nothing."""

    attention: Tensor | None = None
    convolution1: Tensor | None = None
    convolution2: Tensor | None = None
    feed_forward2: Tensor | None = None
    feed_forward3: Tensor | None = None


class Layer(nn.Module):
    """Attention twice, convolution twice and three feed-forward modules, around weights of attention that are
    computed once, from the layer's input."""

    def __init__(
        self, sizes: StackSizes, pos_dim: int, causal: bool, clock: Clock, skip_rate: Ramp | None
    ) -> None:
        super().__init__()
        dim, inner = sizes.dim, sizes.feedforward_dim
        self.sizes = sizes
        self.attention_weights = AttentionWeights(sizes, pos_dim, clock)
        self.attention1 = SelfAttention(sizes, clock)
        self.attention2 = SelfAttention(sizes, clock)
        self.nonlin_attention = NonlinAttention(dim, clock)
        self.feed_forward1 = ZipformerFeedForward(dim, inner * 3 // 4, clock)
        self.feed_forward2 = ZipformerFeedForward(dim, inner, clock)
        self.feed_forward3 = ZipformerFeedForward(dim, inner * 5 // 4, clock)
        self.convolution1 = ConvolutionModule(dim, sizes.kernel, causal, clock)
        self.convolution2 = ConvolutionModule(dim, sizes.kernel, causal, clock)
        self.norm = BiasNorm(dim)
        self.bypass_middle = Bypass(dim, clock)
        self.bypass = Bypass(dim, clock, skip_rate)
        self._init_training(clock)

    def _init_training(self, clock: Clock) -> None:
        """What only training uses."""
        often = clock.ramp((0, 0.5), (8000, 0.125))
        self.attention_skip_rate = clock.ramp((0, 0.2), (4000, 0.05), (16000, 0.0))
        self.convolution_skip_rate = clock.ramp((0, 0.2), (4000, 0.05), (16000, 0.0))
        self.feed_forward2_skip_rate = clock.ramp((0, 0.1), (4000, 0.01), (50000, 0.0))
        self.feed_forward3_skip_rate = clock.ramp((0, 0.1), (4000, 0.01), (50000, 0.0))
        self.constant_attention_rate = clock.ramp((0, 0.25), (4000, 0.025))
        self.nonlin_balancer = _mixed_signs(clock.ramp((0, 0.004), (4000, 0.02)), 100.0)
        self.feed_forward2_balancer = _mixed_signs(clock.ramp((0, 0.0), (4000, 0.1)), 2.0)
        self.feed_forward3_balancer = _mixed_signs(clock.ramp((0, 0.0), (4000, 0.2)), 4.0)
        self.norm_balancer = Balancer(often, min_positive=0.45, max_positive=0.55, min_abs=0.2, max_abs=4.0)
        self.balancer = Balancer(often, min_positive=0.45, max_positive=0.55, min_abs=0.1, max_abs=4.0)
        self.whiten = Whiten(clock.ramp((0, 4.0), (20000, 12.0)))

    def init_state(self, batch_size: int, left: int, like: Tensor) -> LayerState:
        """The state of streams that have seen nothing, with `left` of the stack's frames."""
        sizes, reach = self.sizes, self.convolution1.reach
        widths = (
            sizes.num_heads * sizes.query_head_dim,
            3 * sizes.dim // 4,
            sizes.num_heads * sizes.value_head_dim,
            sizes.num_heads * sizes.value_head_dim,
        )
        return LayerState(
            *(like.new_zeros(batch_size, left, width) for width in widths),
            *(like.new_zeros(batch_size, reach, sizes.dim) for _ in range(2)),
        )

    def forward(
        self, x_BNWD: Tensor, positions_RP: Tensor, state: LayerState, frames: Frames
    ) -> tuple[Tensor, LayerState]:
        """Blocks (B, N, W, D) and a state to blocks and the state after them."""
        choice = self._choose(x_BNWD)
        x = x_BNWD
        weights, keys = self.attention_weights(x_BNWD, positions_RP, state.keys_BLD, frames)
        x = x + self.feed_forward1(x)
        first_head = self._first_head(weights)
        y, gated = self.nonlin_attention(x, first_head, state.gated_BLD, frames)
        x = x + masked(self.nonlin_balancer(y), choice.attention)
        y, values1 = self.attention1(x, weights, state.values1_BLD, frames)
        x = x + masked(y, choice.attention)
        y, convolution1 = self.convolution1(x, state.convolution1_BHD, frames)
        x = x + masked(y, choice.convolution1)
        x = x + masked(self.feed_forward2_balancer(self.feed_forward2(x)), choice.feed_forward2)
        x = self.bypass_middle(x_BNWD, x)
        y, values2 = self.attention2(x, weights, state.values2_BLD, frames)
        x = x + masked(y, choice.attention)
        y, convolution2 = self.convolution2(x, state.convolution2_BHD, frames)
        x = x + masked(y, choice.convolution2)
        x = x + masked(self.feed_forward3_balancer(self.feed_forward3(x)), choice.feed_forward3)
        x = self.norm(self.norm_balancer(x))
        x = self.whiten(self.balancer(self.bypass(x_BNWD, x)))
        return x, LayerState(keys, gated, values1, values2, convolution1, convolution2)

    def _first_head(self, weights_BNHWK: Tensor) -> Tensor:
        """The weights of the non-linear attention, (B, N, 1, W, K)."""
        first_BN1WK = weights_BNHWK[:, :, :1]
        if self.training and by_chance(self.constant_attention_rate()):
            seen_BN1WK = (first_BN1WK > 0.0).to(first_BN1WK.dtype)
            return seen_BN1WK / seen_BN1WK.sum(dim=-1, keepdim=True)
        return first_BN1WK

    def _choose(self, x: Tensor) -> LayerChoice:
        if not self.training:
            return LayerChoice()
        return LayerChoice(
            attention=of_utterances(x, self.attention_skip_rate()),
            convolution1=of_utterances(x, self.convolution_skip_rate()),
            convolution2=of_utterances(x, self.convolution_skip_rate()),
            feed_forward2=of_utterances(x, self.feed_forward2_skip_rate()),
            feed_forward3=of_utterances(x, self.feed_forward3_skip_rate()),
        )


def _mixed_signs(min_abs: Ramp, max_abs: float) -> Balancer:
    """Of what a module adds to a layer's frames."""
    return Balancer(0.05, min_positive=0.3, max_positive=0.7, min_abs=min_abs, max_abs=max_abs)
