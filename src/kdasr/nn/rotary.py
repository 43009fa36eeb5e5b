"""Rotary position embeddings (Su et al. 2021): scores depend on the distance of query and key alone."""

# Shapes: P positions, A half of a head's width, `...` any leading dimensions.

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10000.0


class Rotation(NamedTuple):
    """Cosines and sines of each position's angles."""

    cos_PA: Tensor
    sin_PA: Tensor


def rotary_tables(num_positions: int, head_dim: int, like: Tensor) -> Rotation:
    """Tables for positions 0 .. num_positions - 1, computed in float64, of the type and device of `like`."""
    assert head_dim % 2 == 0, head_dim
    exponents_A = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.float64) / head_dim
    positions_P = torch.arange(num_positions, device=like.device, dtype=torch.float64)
    angles_PA = positions_P[:, None] * BASE**-exponents_A
    return Rotation(angles_PA.cos().to(like.dtype), angles_PA.sin().to(like.dtype))


def rotate(x_PHE: Tensor, rotation: Rotation) -> Tensor:
    """Rotate heads (..., P, H, E) by the angles (..., P, A) of their positions; E = 2 A."""
    first, second = x_PHE.chunk(2, dim=-1)
    cos, sin = rotation.cos_PA.unsqueeze(-2), rotation.sin_PA.unsqueeze(-2)
    return torch.cat(
        [torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)], dim=-1
    )
