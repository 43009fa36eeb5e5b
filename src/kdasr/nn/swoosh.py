"""The activation functions of Zipformer (Yao et al. 2024)."""

from torch import Tensor
from torch.nn import functional

SLOPE = 0.08
LEFT_OFFSET = 0.035
RIGHT_OFFSET = 0.313261687
"""ln(1 + 1/e), so that `swoosh_right(0)` is 0."""


def swoosh_left(x: Tensor) -> Tensor:
    """softplus(x - 4) - 0.08 x - 0.035: almost off at 0; for modules that should rest at 0."""
    return functional.softplus(x - 4.0) - SLOPE * x - LEFT_OFFSET


def swoosh_right(x: Tensor) -> Tensor:
    """softplus(x - 1) - 0.08 x - ln(1 + 1/e): 0 at 0."""
    return functional.softplus(x - 1.0) - SLOPE * x - RIGHT_OFFSET
