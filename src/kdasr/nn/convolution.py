"""The convolution module of an encoder layer, with a dynamic chunk convolution."""

# Shapes: B streams, N blocks, W frames per block, H = kernel // 2 frames of left context, P = H + W,
# X = B * N, D width.

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.blocks import BlockPlan, with_left_context
from kdasr.nn.depthwise import depthwise_conv
from kdasr.nn.linear import Linear


class ConvolutionState(NamedTuple):
    """Input of the depthwise convolution at the last H main frames."""

    left_BHD: Tensor


class ChunkedConvolution(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution, normalization, pointwise convolution.

    The depthwise kernel sees H frames to the left and its own block, zeros beyond the block (dynamic chunk
    convolution, Li et al. 2023). In one block of a whole utterance this is the plain symmetric convolution,
    so weights fit both contexts. Normalization is per frame (not per batch, unlike Gulati et al. 2020), so
    that chunks equal the whole.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        assert kernel % 2 == 1, kernel
        self.reach = kernel // 2
        self.expand = Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.project = Linear(dim, dim)

    def init_state(self, batch_size: int, like: Tensor) -> ConvolutionState:
        """The state of streams that have seen nothing, of the type and device of `like`."""
        return ConvolutionState(like.new_zeros(batch_size, self.reach, self.project.out_features))

    def forward(
        self, x_BNWD: Tensor, state: ConvolutionState, plan: BlockPlan
    ) -> tuple[Tensor, ConvolutionState]:
        """Convolve blocks.

        Returns:
            Blocks (B, N, W, D) and the state after the last block's main frames.
        """
        x_BNWD = functional.glu(self.expand(x_BNWD)).masked_fill(~plan.valid_BNW1, 0.0)
        joined_BNPD, left_BHD = with_left_context(state.left_BHD, x_BNWD, plan.chunk)
        joined_BNPD = functional.pad(joined_BNPD, (0, 0, 0, self.reach))
        kernel = self.depthwise
        assert kernel.bias is not None
        y_XWD = depthwise_conv(joined_BNPD.flatten(0, 1), kernel.weight.squeeze(1), kernel.bias)
        y_BNWD = y_XWD.unflatten(0, x_BNWD.shape[:2])
        return self.project(functional.silu(self.norm(y_BNWD))), ConvolutionState(left_BHD)
