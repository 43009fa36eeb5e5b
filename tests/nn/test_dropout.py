"""Dropout by bytes: rate, expectation, mode."""

import pytest
import torch

from kdasr.nn.dropout import Dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_rate_and_expectation(probability):
    torch.manual_seed(0)
    y = Dropout(probability)(torch.ones(1001, 333))
    assert (y == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
    assert y.mean().item() == pytest.approx(1.0, abs=0.02)
    kept = y[y != 0]
    assert torch.all(kept == kept[0])


def test_gradient_passes_where_values_do():
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    y = Dropout(0.3)(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose(grad * x, y)


def test_evaluation_and_zero_probability_change_nothing():
    x = torch.randn(4, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_global_seed_decides():
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(Dropout(0.5)(torch.ones(100)))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
