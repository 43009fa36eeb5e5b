"""Utterances cut into blocks: how chunked attention and convolution cost a linear amount of work.

Frames are arranged as (B, N, W, D): block n holds the C main frames [nC, nC + C) and a copy of the R
look-ahead frames after them (a hard copy, as in Emformer, Shi et al. 2021), so W = C + R. Each layer
recomputes the copies, so that the look-ahead does not grow with depth (but see `with_next_frames`). On its
left a block sees *main* frames of earlier blocks, or of a cache in front of the first block. Full context is
one block of the whole utterance; a streaming step is one block with a cache.
"""

# Shapes: B streams or utterances, N blocks, C main frames per block, R look-ahead copies per block,
# W = C + R, L main frames before a block, K = L + W, T encoder frames, M = N * C, D width, A half of a head's
# width.

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.nn.context import Context
from kdasr.nn.rotary import Rotation, rotary_tables


class BlockPlan(NamedTuple):
    """What every layer needs to know about the blocks of one call; computed once per call."""

    chunk: int
    """C."""
    valid_BNW1: Tensor
    """True for frames inside the utterance."""
    visible_BN1K: Tensor
    """True for the keys that a block's queries see: L left neighbors, then the block itself."""
    cache_rotation: Rotation
    """Rotary tables (L, A) of the cached frames."""
    block_rotation: Rotation
    """Rotary tables (N, W, A) of the blocks' frames."""


def clip_context(context: Context, num_frames: int) -> tuple[int, int, int]:
    """(left, chunk, right) for whole utterances of at most `num_frames`, without what lies outside of them.

    Exact: nothing is beyond the chunk that holds the whole utterance, nor before its first frame.
    """
    num_frames = max(num_frames, 1)
    if context.is_full or context.chunk >= num_frames:
        return 0, num_frames, 0
    num_blocks = -(-num_frames // context.chunk)
    return min(context.left, (num_blocks - 1) * context.chunk), context.chunk, context.right


def to_blocks(x_BTD: Tensor, chunk: int, right: int) -> Tensor:
    """Arrange frames as blocks (B, N, W, D), zeros beyond the end.

    Without look-ahead this is a view, but for a partial last block.
    """
    num_frames = x_BTD.shape[1]
    num_blocks = -(-num_frames // chunk)
    padding = num_blocks * chunk + right - num_frames
    if padding:
        x_BTD = functional.pad(x_BTD, (0, 0, 0, padding))
    if right == 0:
        return x_BTD.unflatten(1, (num_blocks, chunk))
    return x_BTD.unfold(1, chunk + right, chunk).transpose(2, 3)


def main_frames(x_BNWD: Tensor, chunk: int) -> Tensor:
    """The blocks' main frames in order, (B, M, D): undoes `to_blocks`, up to the padding."""
    if x_BNWD.shape[2] > chunk:
        x_BNWD = x_BNWD[:, :, :chunk]
    return x_BNWD.flatten(1, 2)


def with_next_frames(x_BNWD: Tensor, chunk: int) -> Tensor:
    """The blocks with the main frames of the blocks after them in the place of the copies, zeros at the end.

    Of a layer that is given such blocks, a frame sees its look-ahead as the layer below has made it for the
    next block (a plain mask), so the look-ahead grows with every layer.
    """
    return to_blocks(main_frames(x_BNWD, chunk), chunk, x_BNWD.shape[2] - chunk)


def with_left_context(cache_BLD: Tensor, x_BNWD: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Put in front of each block the L main frames before it.

    Args:
        cache_BLD: the L main frames before the first block.
        x_BNWD: the blocks.
        chunk: main frames per block.

    Returns:
        Blocks with their left context (B, N, K, D), and the L main frames before the block that comes next.
    """
    left, num_blocks = cache_BLD.shape[1], x_BNWD.shape[1]
    if left == 0 and num_blocks == 1:
        return x_BNWD, cache_BLD
    if num_blocks == 1:
        joined_BKD = torch.cat([cache_BLD, x_BNWD.flatten(1, 2)], dim=1)
        return joined_BKD.unsqueeze(1), joined_BKD[:, chunk : chunk + left]
    history_BPD = torch.cat([cache_BLD, main_frames(x_BNWD, chunk)], dim=1)
    starts_N1 = torch.arange(num_blocks, device=x_BNWD.device)[:, None] * chunk
    frames_NK = starts_N1 + torch.arange(left + chunk, device=x_BNWD.device)
    # An index costs the backward pass less than overlapping views do.
    joined_BNKD = history_BPD.index_select(1, frames_NK.flatten()).unflatten(1, frames_NK.shape)
    if x_BNWD.shape[2] > chunk:
        joined_BNKD = torch.cat([joined_BNKD, x_BNWD[:, :, chunk:]], dim=2)
    return joined_BNKD, history_BPD[:, num_blocks * chunk :]


def plan_blocks(
    x_BNWD: Tensor, lens_B: Tensor, processed_B: Tensor, left: int, chunk: int, head_dim: int
) -> BlockPlan:
    """Masks and rotary tables for one call.

    Args:
        x_BNWD: the blocks; only their shape, type and device matter.
        lens_B: valid frames of each stream in this call, look-ahead included, on the device of `x_BNWD`.
        processed_B: main frames of each stream before this call.
        left: L of the attention.
        chunk: main frames per block.
        head_dim: width of an attention head.
    """
    num_blocks, window = x_BNWD.shape[1:3]
    device = x_BNWD.device
    starts_N1 = torch.arange(num_blocks, device=device)[:, None] * chunk
    frames_NK = starts_N1 + torch.arange(-left, window, device=device)
    # Frame 0 is the first one of this call: the stream's own first frame is -processed.
    visible_BNK = (frames_NK >= -processed_B[:, None, None]) & (frames_NK < lens_B[:, None, None])
    valid_BNW = visible_BNK[:, :, left:]
    # A block beyond its utterance sees nothing. Its output is not used, but must not be NaN.
    visible_BNK = visible_BNK | ~visible_BNK.any(dim=2, keepdim=True)
    tables = rotary_tables(left + (num_blocks - 1) * chunk + window, head_dim, like=x_BNWD)
    return BlockPlan(
        chunk=chunk,
        valid_BNW1=valid_BNW.unsqueeze(3),
        visible_BN1K=visible_BNK.unsqueeze(2),
        cache_rotation=Rotation(*(table_PA[:left] for table_PA in tables)),
        block_rotation=Rotation(
            *(table_PA[left:].unfold(0, window, chunk).transpose(1, 2) for table_PA in tables)
        ),
    )
