"""The feed-forward module of an encoder layer."""

from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.linear import Linear


class FeedForward(nn.Module):
    """Two linear layers with SiLU in between, frame by frame: (..., D) to (..., D)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.expand = Linear(dim, hidden_dim)
        self.project = Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(functional.silu(self.expand(x)))
