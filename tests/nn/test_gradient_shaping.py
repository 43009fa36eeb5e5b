"""What goes back through the modules that shape gradients: against icefall's numbers, and by their laws."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

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


def as_is(x: Tensor) -> Tensor:
    return x


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def transposed(x: Tensor) -> Tensor:
    return x.transpose(0, 3)


@pytest.mark.parametrize("layout", [as_is, channels_last, transposed])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_activations_have_the_values_and_gradients_of_their_formulas(
    layout: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    """For every order in memory, and for more values than are computed at once."""
    torch.manual_seed(0)
    x = layout(8 * torch.randn(2, 25, 80, 9, dtype=dtype)).requires_grad_()
    weight = torch.randn_like(x)
    for function, shift, offset in [(swoosh_left, 4.0, 0.035), (swoosh_right, 1.0, 0.313261687)]:
        tolerance = {"atol": 0.1, "rtol": 0.02} if dtype == torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
        exact = x.detach().double().requires_grad_()
        expected = (1 + (exact - shift).exp()).log() - 0.08 * exact - offset
        (expected_grad,) = torch.autograd.grad((expected * weight).sum(), exact)
        for grads in (weight, weight.contiguous()):
            y = function(x)
            torch.testing.assert_close(y.double(), expected, **tolerance)
            (grad,) = torch.autograd.grad(y, x, grads)
            torch.testing.assert_close(grad.double(), expected_grad, **tolerance)


def test_activations_pass_the_check_of_gradients() -> None:
    x = (6 * torch.randn(3, 40, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(swoosh_left, x) and torch.autograd.gradcheck(swoosh_right, x)


@pytest.mark.parametrize("channel_dim", [-1, 1])
def test_the_balancers_gradient_is_that_of_its_penalty(channel_dim: int) -> None:
    """Also for channels that are constant, or zero: against automatic differentiation."""
    torch.manual_seed(0)
    scale, mean = torch.tensor([[1e-12, 1e-3, 1, 50, 1, 0, 300, 0], [0, 0, 3, 0, -9, 0, 0, 5]])
    x = (torch.randn(6, 9, 5, 8) * scale + mean).movedim(-1, channel_dim)
    grad = torch.randn_like(x)
    others = [dim for dim in range(4) if dim != channel_dim % 4]
    for limits in (ChannelRange(0.3, 1.0, 0.75, 5.0), ChannelRange(0.4, 0.6, 0.0, 100.0)):
        inputs = x.clone().requires_grad_()
        average, square = inputs.mean(dim=others), inputs.square().mean(dim=others)
        shift = average / (square - average.square()).clamp(min=1e-20).sqrt()
        rms = square.clamp(min=1e-20).sqrt()
        low, high = (
            0.8139535143 * math.atanh(min(2 * p - 1, 1 - 1e-10))
            for p in (limits.min_positive, limits.max_positive)
        )
        sizes = (torch.pi / 2) ** 0.5 * torch.tensor([limits.min_abs, limits.max_abs])
        penalty = (shift - shift.clamp(low, high)).abs() + (rms.clamp(*sizes) / rms).log().abs()
        (pull,) = torch.autograd.grad(penalty.sum(), inputs)
        pull = pull / pull.square().mean(dim=others, keepdim=True).sqrt().clamp(min=1e-20)
        expected = grad + 0.04 * grad.abs() * pull
        torch.testing.assert_close(balanced_gradient(x, grad, limits, channel_dim), expected)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_gradient_of_whitening_is_that_of_its_metric(groups: int) -> None:
    torch.manual_seed(0)
    x = (torch.randn(7, 30, 8) @ torch.randn(8, 8) + 2.0).requires_grad_()
    grad = torch.randn_like(x)
    (pull,) = torch.autograd.grad(whiteness(x, groups), x)
    expected = grad + 0.02 * grad.norm() * pull / pull.norm()
    torch.testing.assert_close(whitened_gradient(x, grad, 1.0, groups, 0.02), expected)
    assert torch.equal(whitened_gradient(x, grad, 9.0, groups, 0.02), grad)


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
