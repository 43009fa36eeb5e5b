"""The conformer's convolution module with a dynamic chunk convolution."""

# Shapes: B streams, N blocks, W frames per block, H = kernel // 2 frames of left context, D width.

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdasr.nn.blocks import BlockPlan, with_left_context


class ConvolutionState(NamedTuple):
    """Input of the depthwise convolution at the last H main frames."""

    left_BHD: Tensor


class ChunkedConvolution(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution, normalisation, pointwise convolution.

    The depthwise kernel sees H frames to the left and its own block, zeros beyond the block (dynamic chunk
    convolution, Li et al. 2023). In one block of a whole utterance this is the plain symmetric convolution, so weights
    fit both contexts. Normalisation is per frame (not per batch, unlike Gulati et al. 2020), so that chunks equal
    the whole.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.half = kernel // 2
        self.expand = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv2d(dim, dim, (1, kernel), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, dim)

    def init_state(self, batch_size: int) -> ConvolutionState:
        """The state of streams that have seen nothing: silence on the left."""
        weight = self.project.weight
        return ConvolutionState(weight.new_zeros(batch_size, self.half, weight.shape[0]))

    def forward(
        self, x_BNWD: Tensor, state: ConvolutionState, plan: BlockPlan
    ) -> tuple[Tensor, ConvolutionState]:
        """Convolve blocks.

        Returns:
            Blocks (B, N, W, D) and the state after the last block's main frames.
        """
        x_BNWD = F.glu(self.expand(x_BNWD)).masked_fill(~plan.valid_BNW1, 0.0)
        joined_BNPD, left_BHD = with_left_context(state.left_BHD, x_BNWD, plan.chunk)
        joined_BNPD = F.pad(joined_BNPD, (0, 0, 0, self.half))
        y_BNWD = self._convolve(joined_BNPD.flatten(0, 1)).unflatten(0, x_BNWD.shape[:2])
        return self.project(F.silu(self.norm(y_BNWD))), ConvolutionState(left_BHD)

    def _convolve(self, x_BPD: Tensor) -> Tensor:
        """Depthwise convolution without padding. Frames by channels is channels-last already: nothing moves."""
        x_BD1P = x_BPD.transpose(1, 2).unsqueeze(2)
        weight = self.depthwise.weight.contiguous(memory_format=torch.channels_last)
        y_BD1W = F.conv2d(x_BD1P, weight, self.depthwise.bias, groups=x_BPD.shape[-1])
        return y_BD1W.squeeze(2).transpose(1, 2)
