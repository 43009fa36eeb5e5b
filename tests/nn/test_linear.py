"""The faster linear layer against torch's."""

import pytest
import torch
from torch.nn import functional

from kdasr.nn import linear
from kdasr.nn.linear import Linear


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 7, 5), (2, 3, 4, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_equal_torch(shape, bias):
    torch.manual_seed(0)
    layer = Linear(5, 6, bias=bias)
    x = torch.randn(*shape, requires_grad=True)
    inputs = [x, *layer.parameters()]
    ours, expected = layer(x), functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(ours, expected, atol=1e-6)
    grad = torch.randn(ours.shape)
    for got, wanted in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        assert got.shape == wanted.shape
        assert torch.allclose(got, wanted, atol=1e-5)


def test_inputs_that_are_not_contiguous():
    layer = Linear(5, 6)
    x = torch.randn(5, 4, 3).permute(2, 1, 0).requires_grad_()
    ours, expected = layer(x), functional.linear(x, layer.weight, layer.bias)
    assert torch.allclose(ours, expected, atol=1e-6)
    grad = torch.randn(6, 4, 3).permute(2, 1, 0)
    got, wanted = (torch.autograd.grad(y, x, grad)[0] for y in (ours, expected))
    assert torch.allclose(got, wanted, atol=1e-5)


def test_frozen_weights_and_empty_inputs():
    layer = Linear(5, 6).requires_grad_(False)
    assert not layer(torch.randn(2, 5)).requires_grad
    x = torch.randn(2, 5, requires_grad=True)
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(2, 5), atol=1e-6)
    assert layer(torch.zeros(3, 0, 5)).shape == (3, 0, 6)


def test_other_types_and_missing_operator_use_torch(monkeypatch):
    x = torch.randn(2, 5)
    layer = Linear(5, 6)
    expected = layer(x)
    assert layer.double()(x.double()).dtype == torch.float64
    monkeypatch.setattr(linear, "_onednn_linear", None)
    assert torch.allclose(layer.float()(x), expected, atol=1e-6)


def test_autocast_gives_the_low_precision_type():
    layer = Linear(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16
