"""ScaledAdam and Eden, against trajectories that icefall computed and by their laws."""

import numpy as np
import pytest
import torch
from torch import nn

from icefall_data import arrays, needs_icefall
from kdasr.distillation.objective_config import StageConfig
from kdasr.training.optim import build_optimizer, eden_factor, scheduled_learning_rate
from kdasr.training.scaled_adam import ScaledAdam
from kdasr.training.training_config import OptimConfig


@needs_icefall
@pytest.mark.parametrize(("kind", "clipping_scale"), [("noclip", np.inf), ("clip", 2.0)])
def test_121_steps_are_icefalls(kind: str, clipping_scale: float) -> None:
    """Matrices, a vector and a scalar; the clipping begins to count at step 10."""
    data = arrays("training")
    names = [name.removeprefix("scaledadam.init.") for name in data if name.startswith("scaledadam.init.")]
    params = [nn.Parameter(data[f"scaledadam.init.{name}"].clone()) for name in names]
    optimizer = ScaledAdam(params, lr=0.045, clipping_scale=clipping_scale)
    for step in range(121):
        for name, param in zip(names, params, strict=True):
            param.grad = data[f"scaledadam.grads.{name}"][step].clone()
        optimizer.step()
        for name, param in zip(names, params, strict=True):
            expected = data[f"scaledadam.{kind}.after.{name}"][step]
            torch.testing.assert_close(
                param.detach(), expected, atol=2e-5, rtol=1e-5, msg=lambda m, n=name, s=step: f"{n} {s}: {m}"
            )


@needs_icefall
def test_eden_is_icefalls() -> None:
    rows = arrays("training")["eden.warmupstart_epoch_batch_lr"].tolist()
    for start, epoch, batch, expected in rows:
        found = 0.045 * eden_factor(batch / 7500, epoch / 3.5, int(batch), 500, start)
        assert found == pytest.approx(expected, rel=1e-9)


def test_eden_counts_steps_and_epochs() -> None:
    config = OptimConfig(decay="eden", learning_rate=1.0, warmup_steps=100, eden_steps=1000, eden_epochs=2)
    stage = StageConfig(num_steps=5000)
    assert scheduled_learning_rate(config, stage, 0) == pytest.approx(0.1)
    assert scheduled_learning_rate(config, stage, 50) == pytest.approx(0.55, rel=1e-3)
    assert scheduled_learning_rate(config, stage, 1000) == pytest.approx(2**-0.25)
    config.steps_per_epoch = 500
    assert scheduled_learning_rate(config, stage, 1000) == pytest.approx(2**-0.5)
    assert scheduled_learning_rate(config, stage, 1499) > scheduled_learning_rate(config, stage, 1500)


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, end: int, scale: float) -> None:
    for step in range(start, end):
        optimizer.zero_grad()
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        (scale * (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()).backward()
        optimizer.step()


def test_the_scale_of_the_loss_does_not_matter() -> None:
    models = [small_model(), small_model()]
    for model, scale in zip(models, (1.0, 1024.0), strict=True):
        config = OptimConfig(optimizer="scaled-adam", learning_rate=0.045)
        train(model, build_optimizer(model.named_parameters(), config), 0, 30, scale)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(models[0][0].weight, small_model()[0].weight, atol=1e-2)


def test_it_resumes_exactly() -> None:
    straight, resumed = small_model(), small_model()
    train(straight, ScaledAdam(straight.parameters(), lr=0.045), 0, 47, 1.0)
    first = ScaledAdam(resumed.parameters(), lr=0.045)
    train(resumed, first, 0, 22, 1.0)
    second = ScaledAdam(resumed.parameters(), lr=0.045)
    second.load_state_dict(first.state_dict())
    train(resumed, second, 22, 47, 1.0)
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_gradient_far_above_the_median_is_clipped() -> None:
    """However far it is; a hundred times the usual one would move the parameter further."""

    def moved(last: float, clipping_scale: float) -> torch.Tensor:
        param = nn.Parameter(torch.ones(3, 2))
        optimizer = ScaledAdam([param], lr=0.01, clipping_scale=clipping_scale)
        for step in range(60):
            param.grad = torch.full((3, 2), last if step == 59 else 1.0)
            optimizer.step()
        return param.detach()

    torch.testing.assert_close(moved(50.0, 2.0), moved(100.0, 2.0))
    assert not torch.allclose(moved(100.0, 2.0), moved(100.0, torch.inf), atol=1e-4)
