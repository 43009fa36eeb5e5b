"""What a call says about its frames, at the rate of each stack: masks, positions and ends.

Frames are arranged in blocks (`kdasr.nn.blocks`): a block is a chunk with a copy of the look-ahead behind it,
and a whole utterance under a full context is one block. All numbers of frames here are of 20 ms, unless a
stack's own are meant.
"""

# Shapes: B streams or utterances, N blocks, W frames of a block, C of them of its chunk, L frames before it,
# K = L + W,
# M = N W, R = K + W - 1 relative positions, P width of a position, D width.

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """The frames of a call at one rate."""

    block: int
    """W."""
    chunk: int
    """C."""
    left: int
    """L."""
    valid_BNW1: Tensor | None
    """False for padding; None: there is none."""
    hidden_BN11K: Tensor
    """True for the keys that the queries of a block do not see."""
    edge: int | None
    """Frames from the start of a block to the end of its look-ahead; None: the end is that of the
    utterance."""
    ends_B: Tensor | None
    """Frames to the end of each utterance, where `edge` is None."""


@dataclass(frozen=True)
class CallFrames:
    """The frames of a call, before they are downsampled."""

    block: int
    chunk: int
    left: int
    visible_BNK: Tensor
    """True for the keys that a block's queries see."""
    all_valid: bool
    """No stream ends in this call."""
    ends_B: Tensor | None
    """What lies beyond is replaced by the last frame before it, where frames are put together; None: nothing
    lies beyond."""
    edge: int | None
    """Frames of a chunk and its look-ahead; None: the convolutions of an utterance end with it."""

    def filled(self, x_BNWD: Tensor) -> Tensor:
        """The frames, those beyond the end replaced by the last one before it."""
        if self.ends_B is None:
            return x_BNWD
        if self.block > self.chunk:
            return self._filled_block_by_block(x_BNWD, self.ends_B)
        x_BMD = x_BNWD.flatten(1, 2)
        last_B = (self.ends_B - 1).clamp(min=0)
        frames_M = torch.arange(x_BMD.shape[1], device=last_B.device)
        last_B1D = x_BMD.gather(1, last_B[:, None, None].expand(-1, -1, x_BMD.shape[2]))
        inside_BM1 = (frames_M < self.ends_B[:, None]).unsqueeze(2)
        return torch.where(inside_BM1, x_BMD, last_B1D).view_as(x_BNWD)

    def _filled_block_by_block(self, x_BNWD: Tensor, ends_B: Tensor) -> Tensor:
        """The same where blocks overlap: a copy of look-ahead ends with the utterance too."""
        device = ends_B.device
        ends_BN = ends_B[:, None] - self.chunk * torch.arange(x_BNWD.shape[1], device=device)
        last_BN = (ends_BN - 1).clamp(min=0, max=self.block - 1)
        last_BN1D = x_BNWD.gather(2, last_BN[:, :, None, None].expand(-1, -1, 1, x_BNWD.shape[3]))
        inside_BNW = torch.arange(self.block, device=device) < ends_BN[:, :, None]
        return torch.where(inside_BNW.unsqueeze(3), x_BNWD, last_BN1D)

    def at_rate(self, factor: int) -> Frames:
        """The frames of a stack that puts `factor` frames together."""
        visible_BNK = self.visible_BNK[:, :, ::factor]
        left = self.left // factor
        ends_B = None
        if self.edge is None:
            assert self.ends_B is not None
            ends_B = -(-self.ends_B // factor)
        return Frames(
            block=self.block // factor,
            chunk=self.chunk // factor,
            left=left,
            valid_BNW1=None if self.all_valid else visible_BNK[:, :, left:].unsqueeze(3),
            hidden_BN11K=~visible_BNK[:, :, None, None],
            edge=None if self.edge is None else self.edge // factor,
            ends_B=ends_B,
        )


def visible_keys(num_blocks: int, sizes: tuple[int, int, int], lens_B: Tensor, processed_B: Tensor) -> Tensor:
    """True (B, N, K) for the keys inside the stream: from its first frame to its last.

    Args:
        num_blocks: N.
        sizes: L, C and the frames of look-ahead behind them.
        lens_B: valid frames of each stream in this call.
        processed_B: frames of each stream before this call.
    """
    left, chunk, right = sizes
    device = lens_B.device
    starts_N1 = torch.arange(num_blocks, device=device)[:, None] * chunk
    frames_NK = starts_N1 + torch.arange(-left, chunk + right, device=device)
    return (frames_NK >= -processed_B[:, None, None]) & (frames_NK < lens_B[:, None, None])


def relative_positions(
    frames: Frames, width: int, like: Tensor, compute: torch.dtype = torch.float64
) -> Tensor:
    """Vectors (R, P) of key minus query, from -(L + W - 1) to W - 1 frames of the stack.

    The distance x is compressed: c sign(x) ln((|x| + c) / c) with c = sqrt(P) goes on growing, but slowly,
    and its arc tangent keeps it on half a turn. Cosines and sines of its multiples follow; the last of them
    is 1, for the share of a score that does not depend on the distance. They are computed in the type
    `compute` and given in that of `like`.
    """
    first = -(frames.left + frames.block - 1)
    distance_R = torch.arange(first, frames.block, device=like.device, dtype=compute)
    scale = math.sqrt(width)
    compressed_R = scale * distance_R.sign() * ((distance_R.abs() + scale) / scale).log()
    turn_R = (2 * math.pi / width * compressed_R).atan()
    angles_RA = turn_R[:, None] * torch.arange(1, width // 2 + 1, device=like.device)
    vectors_RP = torch.stack([angles_RA.cos(), angles_RA.sin()], dim=2).flatten(1)
    always_R1 = torch.ones_like(vectors_RP[:, -1:])
    return torch.cat([vectors_RP[:, :-1], always_R1], dim=1).to(like.dtype)
