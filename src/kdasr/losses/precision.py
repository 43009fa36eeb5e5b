"""The losses' number format."""

import torch
from torch import Tensor


def as_float(values: Tensor) -> Tensor:
    """float64 as it is, anything else as float32: log-probabilities do not survive half precision."""
    return values if values.dtype == torch.float64 else values.float()
