"""Linear layers that begin small, and so let the layer around them begin near the identity."""

import torch
from torch import nn

from kdasr.nn.linear import Linear


def scaled_linear(inputs: int, outputs: int, scale: float, *, bias: bool = True) -> Linear:
    """A linear layer with the usual initial weights times `scale`, and a bias of up to a tenth of it."""
    layer = Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(scale)
        if layer.bias is not None:
            nn.init.uniform_(layer.bias, -0.1 * scale, 0.1 * scale)
    return layer
