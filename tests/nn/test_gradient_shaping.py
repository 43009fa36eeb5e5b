"""What goes back through the modules that shape gradients: against icefall's numbers, and by their laws."""

from typing import Any

import pytest
import torch
from torch import nn

from icefall_data import arrays, needs_icefall
from kdasr.nn.bias_norm import BiasNorm
from kdasr.nn.gradient_shaping import (
    Balancer,
    ChannelRange,
    Whiten,
    balanced_gradient,
    limited_gradient,
    penalized_gradient,
    scale_gradient,
    whitened_gradient,
    whiteness,
)
from kdasr.nn.schedule import Clock
from kdasr.nn.swoosh import swoosh_left, swoosh_right


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return arrays("training")


@needs_icefall
def test_all_gradients_are_icefalls(data: dict[str, Any]) -> None:
    found = {}
    for case in "abcd":
        limits = ChannelRange(*data[f"balancer.{case}.args"][:4].tolist())
        found[f"balancer.{case}.x_grad"] = balanced_gradient(
            data["balancer.x"], data["balancer.y_grad"], limits
        )
    for groups in (1, 4):
        found[f"whiten.g{groups}.metric"] = whiteness(data["whiten.x"], groups)
        found[f"whiten.g{groups}.x_grad"] = whitened_gradient(
            data["whiten.x"], data["whiten.y_grad"], 1.5, groups, 0.02
        )
    found["limit_param.x_grad"] = limited_gradient(data["limit_param.p"], data["limit_param.y_grad"], 0.2, 1)
    grad = torch.full_like(data["penalize.x"], 0.5)
    found["penalize.x_grad"] = penalized_gradient(data["penalize.x"], grad, 25.0, 1e-4)
    for name, value in found.items():
        # icefall counts the penalty of attention scores in float16.
        atol = 1e-4 if name.startswith("penalize") else 1e-6
        torch.testing.assert_close(value, data[name], atol=atol, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@needs_icefall
def test_activations_and_norm_are_icefalls(data: dict[str, Any]) -> None:
    for side, function in (("l", swoosh_left), ("r", swoosh_right)):
        x = data["swoosh.x"].clone().requires_grad_()
        y = function(x)
        torch.testing.assert_close(y, data[f"swoosh.{side}"], atol=1e-6, rtol=1e-6)
        (slope,) = torch.autograd.grad(y.sum(), x)
        # Beyond 88 a softplus without care overflows in float32.
        torch.testing.assert_close(slope, data[f"swoosh.{side}_deriv"], atol=1e-6, rtol=1e-6)
    norm = BiasNorm(8).eval()
    x = data["biasnorm.x"].clone().requires_grad_()
    with torch.no_grad():
        norm.bias.copy_(data["biasnorm.bias"])
        norm.log_scale.copy_(data["biasnorm.log_scale"])
    y = norm(x)
    y.backward(data["biasnorm.y_grad"])
    torch.testing.assert_close(y.detach(), data["biasnorm.y"])
    for value, name in [(x, "x"), (norm.bias, "bias"), (norm.log_scale, "log_scale")]:
        torch.testing.assert_close(value.grad, data[f"biasnorm.{name}_grad"], atol=1e-5, rtol=1e-5)


def test_nothing_is_changed_but_gradients_and_those_only_in_training() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 4, 8) * torch.tensor([0.001, 1, 50, 1, 1, 1, 1, 1]) + 3
    for module in (Balancer(1.0, min_abs=0.2, max_abs=4.0), Whiten(1.0)):
        changed = 0
        for _ in range(40):
            inputs = x.clone().requires_grad_()
            outputs = module(inputs)
            assert torch.equal(outputs, x)
            outputs.backward(torch.ones_like(x))
            changed += not torch.equal(inputs.grad, torch.ones_like(x))
        assert changed == 40 if isinstance(module, Balancer) else 2 < changed < 20
        module.eval()
        assert module(x) is x


def test_the_balancer_pulls_channels_back_into_range() -> None:
    """A descent along its gradient alone makes small ones larger, large ones smaller, and mixes signs."""
    torch.manual_seed(0)
    x = torch.randn(200, 3) * torch.tensor([0.01, 20.0, 1.0]) + torch.tensor([0.0, 0.0, 9.0])
    penalty = balanced_gradient(x, torch.ones_like(x), ChannelRange(0.3, 0.7, 0.2, 4.0)) - 1.0
    after = x - 0.01 * penalty / penalty.abs().max()
    rms, before = after.square().mean(dim=0).sqrt(), x.square().mean(dim=0).sqrt()
    assert rms[0] > before[0] and rms[1] < before[1]
    assert after[:, 2].mean() < x[:, 2].mean()
    inside = torch.randn(200, 3)
    assert torch.equal(
        balanced_gradient(inside, torch.ones_like(x), ChannelRange(0.3, 0.7, 0.2, 4.0)), torch.ones(200, 3)
    )


def test_white_channels_have_a_metric_of_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000, 8)
    assert float(whiteness(x, 2)) == pytest.approx(1.0, abs=0.01)
    assert float(whiteness(x[:, :1].expand(-1, 8), 1)) == pytest.approx(8.0)


def test_a_gradient_is_scaled() -> None:
    x = nn.Parameter(torch.ones(3))
    scale_gradient(x, 0.2).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), 0.2))


def test_a_ramp_is_linear_between_its_points() -> None:
    clock = Clock()
    ramp = clock.ramp((100, 2.0), (200, 4.0), (300, 0.0))
    for batches, value in [(0, 2), (100, 2), (150, 3), (200, 4), (250, 2), (300, 0), (1e9, 0)]:
        clock.batches = batches
        assert ramp() == value
