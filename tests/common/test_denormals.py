"""Tiny numbers are zeros within the block, and numbers again after it."""

import pytest
import torch

from kdasr.common.denormals import denormals_as_zeros


def test_tiny_products_are_zero_within_the_block_alone() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot take denormal numbers for zeros")
    small, factor = torch.tensor([1e-30]), torch.tensor([1e-10])
    with pytest.raises(KeyError), denormals_as_zeros():
        assert float(small * factor) == 0.0
        raise KeyError
    assert float(small * factor) > 0.0
