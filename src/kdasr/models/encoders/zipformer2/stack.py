"""The layers of one frame rate, and the way to it and back."""

# Shapes: B streams or utterances, N blocks, W frames of a block (20 ms), D width.

from math import sqrt
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.base import MASK
from kdasr.models.encoders.zipformer2.config import StackSizes, Zipformer2Config
from kdasr.models.encoders.zipformer2.frames import CallFrames, relative_positions
from kdasr.models.encoders.zipformer2.layer import Bypass, Layer, LayerState
from kdasr.models.encoders.zipformer2.random_parts import channel_mask, masked
from kdasr.nn.blocks import with_next_frames
from kdasr.nn.schedule import Clock, Ramp

POSITION_DROPOUT = 0.15


class Downsample(nn.Module):
    """A learnt mean of every `factor` frames."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.bias = nn.Parameter(torch.zeros(factor))

    def forward(self, x_BNWD: Tensor, frames: CallFrames) -> Tensor:
        """(B, N, W, D) to (B, N, W / factor, D); the last group of an utterance repeats its last frame."""
        groups = frames.filled(x_BNWD).unflatten(2, (-1, self.factor))
        return (groups * self.bias.softmax(dim=0)[:, None]).sum(dim=3)


class Stack(nn.Module):
    """Layers of one frame rate. Between stacks frames are 20 ms long."""

    def __init__(self, sizes: StackSizes, config: Zipformer2Config, clock: Clock, index: int) -> None:
        super().__init__()
        self.sizes, self.pos_dim = sizes, config.pos_dim
        self.lookahead_grows = config.lookahead == MASK
        """Whether each layer but the encoder's first sees its look-ahead as the one below has made it."""
        self.is_first = index == 0
        self.position_type = torch.float64
        rates = layer_skip_rates(config, clock, index)
        self.layers = nn.ModuleList(
            Layer(sizes, config.pos_dim, config.causal, clock, rate) for rate in rates
        )
        self.downsample: Downsample | None = None
        self.combine: Bypass | None = None
        if sizes.factor > 1:
            self.downsample = Downsample(sizes.factor)
            self.combine = Bypass(sizes.dim, clock)

    def init_state(self, batch_size: int, left: int, like: Tensor) -> tuple[LayerState, ...]:
        """The states of streams that have seen nothing, with `left` frames (20 ms) of context."""
        layers = (cast(Layer, layer) for layer in self.layers)
        return tuple(layer.init_state(batch_size, left // self.sizes.factor, like) for layer in layers)

    def forward(
        self, x_BNWD: Tensor, states: tuple[LayerState, ...], call: CallFrames
    ) -> tuple[Tensor, list[Tensor], tuple[LayerState, ...]]:
        """
        Args:
            x_BNWD: frames of any width, which is cut or filled up with zeros.
            states: of the layers.
            call: the frames of the call.

        Returns:
            Frames of this stack's width, the output of every layer at the stack's own rate, and the states.
        """
        x_BNWD = functional.pad(x_BNWD, (0, self.sizes.dim - x_BNWD.shape[-1]))
        before_BNWD = x_BNWD
        frames = call.at_rate(self.sizes.factor)
        if self.downsample is not None:
            x_BNWD = self.downsample(x_BNWD, call)
        positions_RP = relative_positions(frames, self.pos_dim, x_BNWD, self.position_type)
        positions_RP = functional.dropout(positions_RP, POSITION_DROPOUT, self.training)
        mask = channel_mask(x_BNWD, self.sizes.unmasked_dim) if self.training else None
        x_BNWD = masked(x_BNWD, mask)
        outputs: list[Tensor] = []
        new_states = []
        for layer, state in zip(self.layers, states, strict=True):
            if self.lookahead_grows and not (self.is_first and not outputs):
                x_BNWD = with_next_frames(x_BNWD, frames.chunk)
            x_BNWD, new_state = layer(x_BNWD, positions_RP, state, frames)
            x_BNWD = masked(x_BNWD, mask)
            outputs.append(x_BNWD)
            new_states.append(new_state)
        if self.combine is not None:
            repeated = x_BNWD.unsqueeze(3).expand(-1, -1, -1, self.sizes.factor, -1)
            x_BNWD = self.combine(before_BNWD, repeated.flatten(2, 3))
        return x_BNWD, outputs, tuple(new_states)


def layer_skip_rates(config: Zipformer2Config, clock: Clock, index: int) -> list[Ramp]:
    """How often each layer of a stack is skipped: half the time at first, less and less from the first stack
    to the last one, and the least where there are the most frames."""
    stacks, sizes = config.stacks, config.stacks[index]
    parts = len(stacks) + 1
    rates = []
    for layer in range(sizes.num_layers):
        begin = config.warmup_batches * (index + 1 + layer / sizes.num_layers) / parts
        end = begin + config.warmup_batches / (sizes.num_layers * parts)
        rates.append(clock.ramp((begin, 0.5), (end, 0.035 * sqrt(sizes.factor))))
    return rates
