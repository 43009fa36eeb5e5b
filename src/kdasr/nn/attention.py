"""Multi-head self-attention over blocks, with the keys and values of a left context."""

# Shapes: B streams, N blocks, W frames per block, C main frames per block, L left-context frames, K = L + W,
# D width, H heads, E head width.

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.blocks import BlockPlan, with_left_context
from kdasr.nn.linear import Linear
from kdasr.nn.rotary import rotate


class AttentionState(NamedTuple):
    """Keys (before rotation) and values of the last L main frames; zeros where the stream is younger."""

    keys_BLD: Tensor
    values_BLD: Tensor


class ChunkedSelfAttention(nn.Module):
    """Each frame attends to its own block and to the L main frames before it.

    Positions are rotary (Su et al. 2021) and counted from the oldest frame of the call. Scores depend on
    distances alone, so nothing drifts however old the stream is.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def init_state(self, batch_size: int, left: int, like: Tensor) -> AttentionState:
        """The state of streams that have seen nothing, of the type and device of `like`."""
        shape = (batch_size, left, self.project_out.out_features)
        # Two tensors: a tracer takes one tensor given twice for one input.
        return AttentionState(like.new_zeros(shape), like.new_zeros(shape))

    def forward(
        self, x_BNWD: Tensor, state: AttentionState, plan: BlockPlan
    ) -> tuple[Tensor, AttentionState]:
        """Attend within blocks and to the left.

        Returns:
            Blocks (B, N, W, D) and the state after the last block's main frames.
        """
        dim = x_BNWD.shape[-1]
        qk, v_BNWD = self.project_in(x_BNWD).split([2 * dim, dim], dim=-1)
        # Rotation keeps distances only, so each frame is rotated once, before the windows overlap.
        rotated = rotate(qk.unflatten(-1, (2 * self.num_heads, -1)), plan.block_rotation)
        q_BNWHE, k_BNWHE = rotated.chunk(2, dim=-2)
        cached_BLHE = rotate(state.keys_BLD.unflatten(-1, (self.num_heads, -1)), plan.cache_rotation)
        k_BNKD, _ = with_left_context(cached_BLHE.flatten(-2), k_BNWHE.flatten(-2), plan.chunk)
        v_BNKD, values_BLD = with_left_context(state.values_BLD, v_BNWD, plan.chunk)
        y_BNHWE = functional.scaled_dot_product_attention(
            q_BNWHE.transpose(2, 3).flatten(0, 1),
            self._heads_first(k_BNKD),
            self._heads_first(v_BNKD),
            attn_mask=plan.visible_BN1K.flatten(0, 1).unsqueeze(1),
        ).unflatten(0, x_BNWD.shape[:2])
        y_BNWD = self.project_out(y_BNHWE.transpose(2, 3).flatten(3))
        keys_BLD = self._last_main(state.keys_BLD, qk[..., dim:], plan.chunk)
        return y_BNWD, AttentionState(keys_BLD, values_BLD)

    def _heads_first(self, x_BNKD: Tensor) -> Tensor:
        return x_BNKD.unflatten(-1, (self.num_heads, -1)).transpose(2, 3).flatten(0, 1)

    @staticmethod
    def _last_main(cache_BLD: Tensor, x_BNWD: Tensor, chunk: int) -> Tensor:
        left = cache_BLD.shape[1]
        num_chunks = min(-(-left // chunk), x_BNWD.shape[1])
        recent_BMD = x_BNWD[:, x_BNWD.shape[1] - num_chunks :, :chunk].flatten(1, 2)
        joined = torch.cat([cache_BLD, recent_BMD], dim=1)
        return joined[:, joined.shape[1] - left :]
