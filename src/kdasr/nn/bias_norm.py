"""The normalization of Zipformer (Yao et al. 2024)."""

import torch
from torch import Tensor, nn

from kdasr.nn.gradient_shaping import limit_gradient

LEAST_LOG_SCALE, MOST_LOG_SCALE = -1.5, 1.5


class BiasNorm(nn.Module):
    """x exp(log_scale) / rms(x - bias) over the channels: unlike LayerNorm, it keeps some of x's length.

    The bias is in the denominator only.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        self.bias = nn.Parameter(torch.empty(dim).normal_(std=1e-4))

    def forward(self, x: Tensor) -> Tensor:
        log_scale: Tensor = self.log_scale
        if self.training:
            log_scale = limit_gradient(log_scale, LEAST_LOG_SCALE, MOST_LOG_SCALE)
        return x * ((x - self.bias).square().mean(dim=-1, keepdim=True).rsqrt() * log_scale.exp())
