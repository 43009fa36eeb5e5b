"""The convolution module of a layer, symmetric or causal with a second convolution inside the chunk."""

# Shapes: B streams or utterances, N blocks, W frames of a block, H = kernel // 2, P = H + W, J kernel taps,
# D width.

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.zipformer2.frames import Frames
from kdasr.models.encoders.zipformer2.scaled import scaled_linear
from kdasr.nn.blocks import with_left_context
from kdasr.nn.depthwise import depthwise_conv
from kdasr.nn.gradient_shaping import Balancer, Whiten
from kdasr.nn.linear import Linear
from kdasr.nn.schedule import Clock
from kdasr.nn.swoosh import swoosh_right


class Depthwise(nn.Module):
    """A depthwise convolution over whole utterances, zeros beyond them. It keeps no state."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.conv = nn.Conv1d(dim, dim, kernel, groups=dim)

    def forward(self, x_BNWD: Tensor, cache_BHD: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """One block; the cache, which nothing is in front of a whole utterance, comes back as it is."""
        assert self.conv.bias is not None
        padded_BPD = functional.pad(x_BNWD.flatten(1, 2), (0, 0, self.reach, self.reach))
        y_BWD = depthwise_conv(padded_BPD, self.conv.weight.squeeze(1), self.conv.bias)
        return y_BWD.unsqueeze(1), cache_BHD


class ChunkDepthwise(nn.Module):
    """A causal convolution over all chunks, and a symmetric one inside each of them.

    The symmetric one sees zeros beyond its chunk and the look-ahead behind it. What it gives is scaled by
    factors that are learnt for the frames near either edge.
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.reach, self.kernel = kernel // 2, kernel
        self.causal = nn.Conv1d(dim, dim, kernel // 2 + 1, groups=dim)
        self.inner = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.edge_scales = nn.Parameter(torch.zeros(2, dim, kernel))
        """1 less than the factors: of the first frames of a chunk, and of its last ones."""
        nn.init.uniform_(self.causal.bias, -0.1, 0.1)  # type: ignore[arg-type]

    def forward(self, x_BNWD: Tensor, cache_BHD: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Blocks (B, N, W, D) and the last H frames of the input.
        """
        causal, inner = self.causal, self.inner
        assert causal.bias is not None and inner.bias is not None
        joined_BNPD, cache_BHD = with_left_context(cache_BHD, x_BNWD, frames.chunk)
        past = depthwise_conv(joined_BNPD.flatten(0, 1), causal.weight.squeeze(1), causal.bias)
        padded_BNPD = functional.pad(x_BNWD, (0, 0, self.reach, self.reach))
        own = depthwise_conv(padded_BNPD.flatten(0, 1), inner.weight.squeeze(1), inner.bias)
        own_BNWD = own.unflatten(0, x_BNWD.shape[:2]) * self.factors(frames)
        return past.unflatten(0, x_BNWD.shape[:2]) + own_BNWD, cache_BHD

    def factors(self, frames: Frames) -> Tensor:
        """Of each frame of a block, (W, D) or, where every utterance has an end of its own, (B, 1, W, D)."""
        # A place behind the last tap is for frames that are far from the edge.
        scales_2JD = functional.pad(self.edge_scales, (0, 1)).transpose(1, 2)
        from_start_W = torch.arange(frames.block, device=scales_2JD.device)
        from_start = scales_2JD[0].index_select(0, from_start_W.clamp(max=self.kernel))
        if frames.edge is not None:
            places_W = self._before_end(frames.edge - 1 - from_start_W)
            return 1.0 + from_start + scales_2JD[1].index_select(0, places_W)
        assert frames.ends_B is not None
        places_BW = self._before_end(frames.ends_B[:, None] - 1 - from_start_W)
        before_end_BWD = scales_2JD[1].index_select(0, places_BW.flatten()).unflatten(0, places_BW.shape)
        return (1.0 + from_start + before_end_BWD).unsqueeze(1)

    def _before_end(self, distance: Tensor) -> Tensor:
        """The place of the factor of frames that are so far from the end."""
        near = (distance >= 0) & (distance < self.kernel)
        return torch.where(near, self.kernel - 1 - distance, self.kernel)


class ConvolutionModule(nn.Module):
    """A gated projection, a depthwise convolution over time, and a projection."""

    def __init__(self, dim: int, kernel: int, causal: bool, clock: Clock) -> None:
        super().__init__()
        often = clock.ramp((0, 0.5), (8000, 0.125))
        self.project = Linear(dim, 2 * dim)
        self.depthwise: Depthwise | ChunkDepthwise
        self.depthwise = ChunkDepthwise(dim, kernel) if causal else Depthwise(dim, kernel)
        self.output = scaled_linear(dim, dim, 0.05)
        self.gate_balancer = Balancer(
            often,
            min_positive=clock.ramp((0, 0.05), (8000, 0.025)),
            max_positive=1.0,
            min_abs=1.5,
            max_abs=clock.ramp((0, 5.0), (8000, 10.0)),
        )
        self.balancer = Balancer(
            often,
            min_positive=clock.ramp((0, 0.1), (8000, 0.05)),
            max_positive=1.0,
            min_abs=clock.ramp((0, 0.2), (20000, 0.5)),
            max_abs=10.0,
        )
        self.whiten = Whiten(clock.ramp((0, 7.5), (20000, 15.0)))

    @property
    def reach(self) -> int:
        """H."""
        return self.depthwise.reach

    def forward(self, x_BNWD: Tensor, cache_BHD: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Blocks (B, N, W, D) and the input of the depthwise convolution at the last H frames.
        """
        x_BNWD, gate_BNWD = self.project(x_BNWD).chunk(2, dim=-1)
        x_BNWD = x_BNWD * torch.sigmoid(self.gate_balancer(gate_BNWD))
        if frames.valid_BNW1 is not None:
            x_BNWD = x_BNWD.masked_fill(~frames.valid_BNW1, 0.0)
        y_BNWD, cache_BHD = self.depthwise(x_BNWD, cache_BHD, frames)
        y_BNWD = self.whiten(self.balancer(y_BNWD))
        return self.output(swoosh_right(y_BNWD)), cache_BHD
