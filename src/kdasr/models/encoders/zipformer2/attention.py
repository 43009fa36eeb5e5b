"""Attention weights that are computed once per layer, and the modules that use them."""

# Shapes: B streams or utterances, N blocks, W frames of a block, L frames before it, K = L + W,
# R = K + W - 1 relative positions, H heads, Q width of a query, P width of a position, S width of its query,
# V width of a value, D width.

from typing import Any

import torch
from torch import Tensor, nn

from kdasr.models.encoders.zipformer2.config import OUTPUT_FACTOR, StackSizes
from kdasr.models.encoders.zipformer2.frames import Frames
from kdasr.models.encoders.zipformer2.scaled import scaled_linear
from kdasr.nn.blocks import with_left_context
from kdasr.nn.gradient_shaping import Balancer, Whiten, by_chance, penalized_gradient, shape_gradient
from kdasr.nn.linear import Linear, in_graph_capture
from kdasr.nn.schedule import Clock

HIDDEN_SCORE = -1000.0
"""Of a key that is not seen. Finite: a frame beyond its utterance may see none."""


class AttentionWeights(nn.Module):
    """How much each frame attends to each other one of its block and of the left context, per head.

    A score is the product of query and key, and of a second query with the vector of their distance. Neither
    is scaled: that is in the initialization.
    """

    def __init__(self, sizes: StackSizes, pos_dim: int, clock: Clock) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.encoded_per_frame = sizes.factor / OUTPUT_FACTOR
        self.query_dim = sizes.num_heads * sizes.query_head_dim
        self.pos_query_dim = sizes.num_heads * sizes.pos_head_dim
        self.project = scaled_linear(
            sizes.dim, 2 * self.query_dim + self.pos_query_dim, sizes.query_head_dim**-0.25
        )
        self.project_positions = scaled_linear(pos_dim, self.pos_query_dim, 0.05, bias=False)
        self.key_balancer = Balancer(0.025, min_positive=0.4, max_positive=0.6, min_abs=0.0, max_abs=100.0)
        self.key_whiten = Whiten(clock.ramp((0, 3.0), (20000, 6.0)), groups=sizes.num_heads, scale=0.025)
        self.position_skip_rate = clock.ramp((0, 0.5), (4000, 0.0))
        self.clock = clock

    def forward(
        self, x_BNWD: Tensor, positions_RP: Tensor, cache_BLD: Tensor, frames: Frames
    ) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Weights (B, N, H, W, K) and the keys of the last L frames.
        """
        widths = [self.query_dim, self.query_dim, self.pos_query_dim]
        query, key_BNWD, pos_query = self.project(x_BNWD).split(widths, dim=-1)
        key_BNWD = self.key_whiten(self.key_balancer(key_BNWD))
        keys_BNKD, cache_BLD = with_left_context(cache_BLD, key_BNWD, frames.chunk)
        query_BNHWQ = by_head(query, self.num_heads)
        scores = query_BNHWQ @ by_head(keys_BNKD, self.num_heads).transpose(-1, -2)
        if self.training and by_chance(self.position_skip_rate()):
            scores = scores + 0.0 * self.project_positions.weight.sum()
        else:
            pos_query_BNHWS = by_head(pos_query, self.num_heads)
            positions_HSR = self.project_positions(positions_RP).t().unflatten(0, (self.num_heads, -1))
            scores = scores + by_key(pos_query_BNHWS @ positions_HSR, scores)
        if self.training and by_chance(PENALTY_PROBABILITY):
            num_frames = x_BNWD.shape[0] * x_BNWD.shape[1] * frames.chunk
            penalty = SCORE_PENALTY * self.clock.share / (num_frames * self.encoded_per_frame)
            scores = shape_gradient(
                scores, lambda x, grad: penalized_gradient(x, grad, LARGEST_SCORE, penalty)
            )
        scores = scores.masked_fill(frames.hidden_BN11K, HIDDEN_SCORE)
        return scores.softmax(dim=-1), cache_BLD


PENALTY_PROBABILITY = 0.1
LARGEST_SCORE = 25.0
"""Scores that are larger are pulled back."""
SCORE_PENALTY = 1e-4
"""The gradient that does it, for losses in nats that are summed over a batch, as in icefall. Those of a
transducer and of CTC are here divided by the encoded frames of all batches of a step, and so is this."""


def by_head(x_BNWD: Tensor, num_heads: int) -> Tensor:
    """Frames (B, N, W, D) as those of each head, (B, N, H, W, D / H)."""
    # Sizes one by one: what a slice of a shape or `unflatten` holds, a tracer takes for constant.
    streams, blocks, frames = (x_BNWD.shape[dim] for dim in range(3))
    return x_BNWD.reshape(streams, blocks, frames, num_heads, -1).transpose(2, 3)


def by_key(scores: Tensor, keys: Tensor) -> Tensor:
    """Scores of distances (..., W, R) in the shape of `keys`, scores of keys (..., W, K).

    Those of query i and key j are at place j - i + W - 1, one place earlier for each next query: as in rows
    of R - 1 places that are cut from all the scores in one row.
    """
    *others, num_queries, num_keys = (keys.shape[dim] for dim in range(keys.ndim))
    if num_queries == 1:
        return scores
    if scores.requires_grad and torch.is_grad_enabled() and not in_graph_capture():
        return _ByKey.apply(scores, num_keys)
    places = num_queries + num_keys - 2
    row = scores.flatten(-2)[..., num_queries - 1 :]
    return row[..., : num_queries * places].reshape(*others, num_queries, places)[..., :num_keys]


class _ByKey(torch.autograd.Function):
    """The same as one view, whose gradient is written once instead of once for each of three slices."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, num_keys: int) -> Tensor:
        ctx.shape = scores.shape
        return _key_view(scores.contiguous(), num_keys)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        scores_grad = grad.new_zeros(ctx.shape)
        _key_view(scores_grad, grad.shape[-1]).copy_(grad)
        return scores_grad, None


def _key_view(scores: Tensor, num_keys: int) -> Tensor:
    """The scores of keys (..., W, K) in the memory of those of distances (..., W, R)."""
    *outer, queries, distances = scores.stride()
    shape = (*scores.shape[:-1], num_keys)
    first = scores.storage_offset() + scores.shape[-2] - 1
    return scores.as_strided(shape, (*outer, queries - distances, distances), first)


class SelfAttention(nn.Module):
    """The weighted sum of values, head by head."""

    def __init__(self, sizes: StackSizes, clock: Clock) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        values = sizes.num_heads * sizes.value_head_dim
        self.project = Linear(sizes.dim, values)
        self.output = scaled_linear(values, sizes.dim, 0.05)
        self.whiten = Whiten(clock.ramp((0, 7.5), (20000, 22.5)))

    def forward(
        self, x_BNWD: Tensor, weights_BNHWK: Tensor, cache_BLD: Tensor, frames: Frames
    ) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Blocks (B, N, W, D) and the values of the last L frames.
        """
        values_BNKD, cache_BLD = with_left_context(cache_BLD, self.project(x_BNWD), frames.chunk)
        y_BNHWV = weights_BNHWK @ by_head(values_BNKD, self.num_heads)
        return self.whiten(self.output(y_BNHWV.transpose(2, 3).flatten(3))), cache_BLD


class NonlinAttention(nn.Module):
    """The weighted sum of gated values by one head's weights, and a gate on what comes out of it."""

    def __init__(self, dim: int, clock: Clock) -> None:
        super().__init__()
        hidden = 3 * dim // 4
        self.project = Linear(dim, 3 * hidden)
        self.output = scaled_linear(hidden, dim, 0.05)
        self.balancer = Balancer(
            clock.ramp((0, 0.5), (8000, 0.125)),
            min_positive=clock.ramp((0, 0.25), (20000, 0.05)),
            max_positive=clock.ramp((0, 0.75), (20000, 0.95)),
            min_abs=0.5,
            max_abs=5.0,
        )
        self.value_whiten = Whiten(clock.ramp((0, 5.0), (20000, 10.0)))
        self.whiten = Whiten(clock.ramp((0, 5.0), (20000, 15.0)))

    def forward(
        self, x_BNWD: Tensor, weights_BN1WK: Tensor, cache_BLD: Tensor, frames: Frames
    ) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Blocks (B, N, W, D) and the gated values of the last L frames.
        """
        gate_BNWD, value_BNWD, y_BNWD = self.project(x_BNWD).chunk(3, dim=-1)
        gated_BNWD = self.value_whiten(value_BNWD) * torch.tanh(self.balancer(gate_BNWD))
        gated_BNKD, cache_BLD = with_left_context(cache_BLD, gated_BNWD, frames.chunk)
        mixed_BNWD = weights_BN1WK.squeeze(2) @ gated_BNKD
        return self.whiten(self.output(mixed_BNWD * y_BNWD)), cache_BLD
