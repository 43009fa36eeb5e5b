import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.distillation.objective_config import StageConfig
from kdasr.training.optim import (
    build_optimizer,
    gradient_norm,
    learning_rate_factor,
    scheduled_learning_rate,
    set_learning_rate,
)
from kdasr.training.training_config import OptimConfig


def factors(decay: str, warmup: int = 10, steps: int = 110, final: float = 0.1) -> list[float]:
    return [
        learning_rate_factor(step, warmup_steps=warmup, num_steps=steps, decay=decay, final=final)
        for step in range(steps)
    ]


@pytest.mark.parametrize("decay", ["cosine", "linear", "inverse-sqrt", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(decay: str) -> None:
    assert factors(decay)[:10] == pytest.approx([0.1 * step for step in range(1, 11)])


@pytest.mark.parametrize(
    ("decay", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_decay_passes_its_middle_and_ends_at_the_final_fraction(
    decay: str, middle: float, end: float
) -> None:
    values = factors(decay)
    # Step 9 is the peak and step 109 the last: step 59 lies half-way.
    assert values[59] == pytest.approx(middle)
    assert values[109] == pytest.approx(end)
    assert all(later <= earlier for earlier, later in pairwise(values[9:]))


def test_inverse_sqrt_halves_in_four_warm_ups() -> None:
    assert factors("inverse-sqrt")[39] == pytest.approx(0.5)
    assert factors("inverse-sqrt", final=0.4)[109] == 0.4


def test_cosine_differs_from_linear_in_between() -> None:
    assert factors("cosine")[34] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factors("linear")[34] == pytest.approx(0.1 + 0.9 * 0.75)


@pytest.mark.parametrize("decay", ["cosine", "linear", "inverse-sqrt", "constant"])
def test_no_warm_up_starts_near_the_peak(decay: str) -> None:
    values = factors(decay, warmup=0, steps=10)
    assert values[0] > 0.85 and all(0 < value <= 1 for value in values)


def test_a_stage_has_its_own_rate_and_warm_up() -> None:
    config = OptimConfig(learning_rate=1e-3, warmup_steps=10, decay="constant")
    stage = StageConfig(num_steps=20, learning_rate=4e-3, warmup_steps=4)
    assert scheduled_learning_rate(config, stage, 0) == pytest.approx(1e-3)
    assert scheduled_learning_rate(config, StageConfig(num_steps=20), 0) == pytest.approx(1e-4)


def test_biases_and_norms_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(weight_decay=0.5, learning_rate=0.1))
    before = {name: value.clone() for name, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    assert torch.allclose(after["0.weight"], before["0.weight"] * 0.95)
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(after[name], before[name]), name


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 4)
    model.weight.requires_grad_(False)
    optimizer = build_optimizer(model.named_parameters(), OptimConfig())
    assert [p is model.bias for group in optimizer.param_groups for p in group["params"]] == [True]


def test_gradient_norm_is_that_of_all_gradients_together() -> None:
    model = nn.Linear(3, 4)
    model.weight.grad = torch.full((4, 3), 2.0)
    assert float(gradient_norm(model.parameters())) == pytest.approx(math.sqrt(12 * 4))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"decay": "step"}, "decay"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"accumulate": 0}, "accumulate"),
        ({"betas": [0.9]}, "betas"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"final_fraction": 2.0}, "final_fraction"),
    ],
)
def test_impossible_settings_are_named(change: dict, name: str) -> None:
    with pytest.raises(UserError, match=f"training.optim.{name}"):
        check_options(OptimConfig(**change), "training.optim")


def small_model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"encoder": nn.Linear(6, 4), "head": nn.Linear(4, 3)})


def loss_of(model: nn.ModuleDict) -> torch.Tensor:
    return (model["head"](torch.tanh(model["encoder"](torch.ones(2, 6)))) - 1).square().sum()


def test_muon_makes_the_steps_of_the_encoder_orthogonal() -> None:
    models = {name: small_model() for name in ("muon", "adamw")}
    before = small_model()["encoder"].weight.detach()
    for name, model in models.items():
        optimizer = build_optimizer(
            model.named_parameters(), OptimConfig(optimizer=name, learning_rate=0.1, weight_decay=0.0)
        )
        loss_of(model).backward()
        optimizer.step()
    torch.testing.assert_close(models["muon"]["head"].weight, models["adamw"]["head"].weight)
    torch.testing.assert_close(models["muon"]["encoder"].bias, models["adamw"]["encoder"].bias)
    step = before - models["muon"]["encoder"].weight.detach()
    gradient = small_model()
    loss_of(gradient).backward()
    # The gradient has rank one (all inputs are equal), so the step is its direction, of one singular value.
    assert torch.linalg.matrix_rank(step, rtol=1e-2) == 1
    direction = gradient["encoder"].weight.grad
    cosine = torch.nn.functional.cosine_similarity(step.flatten(), direction.flatten(), dim=0)
    assert cosine > 0.99


def test_muon_resumes_exactly_under_the_schedule() -> None:
    config = OptimConfig(optimizer="muon")
    straight, resumed = small_model(), small_model()
    optimizer = build_optimizer(straight.named_parameters(), config)
    for step in range(6):
        optimizer.zero_grad()
        loss_of(straight).backward()
        set_learning_rate(optimizer, 0.01 * (step + 1))
        optimizer.step()
    first = build_optimizer(resumed.named_parameters(), config)
    for step in range(6):
        if step == 3:
            state = first.state_dict()
            first = build_optimizer(resumed.named_parameters(), config)
            first.load_state_dict(state)
        first.zero_grad()
        loss_of(resumed).backward()
        set_learning_rate(first, 0.01 * (step + 1))
        first.step()
    for ours, theirs in zip(resumed.parameters(), straight.parameters(), strict=True):
        assert torch.equal(ours, theirs)
