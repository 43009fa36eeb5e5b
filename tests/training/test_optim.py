import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from kdasr.common.errors import UserError
from kdasr.distillation.config import StageConfig
from kdasr.training.config import OptimConfig
from kdasr.training.optim import (
    build_optimizer,
    check_optim,
    gradient_norm,
    learning_rate_factor,
    scheduled_learning_rate,
)


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


def test_inverse_sqrt_halves_in_four_times_the_warm_up_and_stays_above_the_final_fraction() -> None:
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
    optimizer = build_optimizer(model.parameters(), OptimConfig(weight_decay=0.5, learning_rate=0.1))
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
    optimizer = build_optimizer(model.parameters(), OptimConfig())
    assert [p is model.bias for group in optimizer.param_groups for p in group["params"]] == [True]


def test_gradient_norm_is_that_of_all_gradients_together() -> None:
    model = nn.Linear(3, 4)
    model.weight.grad = torch.full((4, 3), 2.0)
    assert float(gradient_norm(model.parameters())) == pytest.approx(math.sqrt(12 * 4))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"decay": "step"}, "decay"),
        ({"accumulate": 0}, "accumulate"),
        ({"betas": [0.9]}, "betas"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"final_fraction": 2.0}, "final_fraction"),
    ],
)
def test_impossible_settings_are_named(change: dict, name: str) -> None:
    with pytest.raises(UserError, match=f"training.optim.{name}"):
        check_optim(OptimConfig(**change))
