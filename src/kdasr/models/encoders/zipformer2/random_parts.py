"""What training leaves out by chance: channels, modules of some utterances, parts of the residual."""

# Shapes: B utterances, D width, `...` time and other dimensions.

import torch
from torch import Tensor, nn

from kdasr.nn.schedule import Ramp


def of_utterances(x: Tensor, rate: float) -> Tensor | None:
    """0 for a share `rate` of the utterances and 1 for the others, (B, 1, ...) like `x`; None: 1 for all."""
    if rate <= 0.0:
        return None
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return (torch.rand(shape, device=x.device) >= rate).to(x.dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` times the mask, if there is one."""
    return x if mask is None else x * mask


class TimeDropout(nn.Module):
    """Dropout of (B, ..., D) that takes a channel of an utterance at all times or at none."""

    def __init__(self, rate: Ramp) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        rate = self.rate() if self.training else 0.0
        if rate <= 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 2) + (x.shape[-1],)
        kept = torch.rand(shape, device=x.device) >= rate
        return x * (kept / (1.0 - rate)).to(x.dtype)


def channel_mask(x: Tensor, unmasked: int) -> Tensor | None:
    """0 or 1 for each channel of each utterance of (B, ..., D), in three groups; None: 1 for all.

    The first `unmasked` channels are always kept. The first half of the others is dropped for one utterance
    in eight, the second half for one in eight more.
    """
    rest = x.shape[-1] - unmasked
    if rest <= 0:
        return None
    first = of_utterances(x, CHANNELS_RATE)
    second = of_utterances(x, CHANNELS_RATE)
    assert first is not None and second is not None
    widths = (unmasked, rest // 2, rest - rest // 2)
    parts = (torch.ones_like(first), first, first * second)
    return torch.cat(
        [part.expand(*part.shape[:-1], width) for part, width in zip(parts, widths, strict=True)], dim=-1
    )


CHANNELS_RATE = 0.125
