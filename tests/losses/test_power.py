import math

import pytest
import torch
from torch import Tensor

from kdasr.losses.power import MIN_EXPONENT, PowerRule, choose_exponents


def log_probs(scale: float, seed: int = 0, vocab: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.rand(2, 30, 5, 1, generator=generator)
    logits = scale * peaks * torch.randn(2, 30, 5, vocab, generator=generator)
    return logits.log_softmax(-1)


def entropy(values: Tensor, exponents: Tensor) -> Tensor:
    smoothed = (exponents.unsqueeze(-1) * values).log_softmax(-1)
    return -(smoothed.exp() * smoothed).sum(-1)


EVEN = torch.ones(2, 30, 5)


@pytest.mark.parametrize("scale", [8.0, 15.0, 40.0])
@pytest.mark.parametrize("floor", [0.1, 0.5, 1.5])
def test_entropy_rule_reaches_the_floor_and_leaves_the_rest(scale: float, floor: float) -> None:
    values = log_probs(scale)
    exponents = choose_exponents(values, EVEN, PowerRule("entropy", entropy_floor=floor))
    before, after = entropy(values, EVEN), entropy(values, exponents)
    low = before < floor
    assert low.any() and not low.all()
    assert (exponents[~low] == 1).all() and (exponents[low] < 1).all()
    torch.testing.assert_close(after[low], torch.full_like(after[low], floor), rtol=1e-2, atol=0)


def test_entropy_rule_on_near_ties_and_near_certainty() -> None:
    logits = torch.zeros(1, 1, 3, 40)
    logits[..., 0, 0] = 30.0
    logits[..., 1, :2] = 60.0
    logits[..., 2, 0] = 1000.0
    values = logits.log_softmax(-1)
    exponents = choose_exponents(values, torch.ones(1, 1, 3), PowerRule("entropy", entropy_floor=1.0))
    after = entropy(values, exponents)[0, 0]
    torch.testing.assert_close(after[:2], torch.ones(2), rtol=1e-2, atol=0)
    # No usable exponent smooths this one; the smallest is taken.
    torch.testing.assert_close(exponents[0, 0, 2], torch.tensor(MIN_EXPONENT), rtol=0.5, atol=0)


def test_a_floor_above_the_largest_entropy_is_lowered_to_it() -> None:
    values = log_probs(10.0, vocab=11)
    exponents = choose_exponents(values, EVEN, PowerRule("entropy", entropy_floor=50.0))
    assert exponents.isfinite().all() and (exponents >= MIN_EXPONENT).all() and (exponents <= 1).all()
    assert (entropy(values, exponents) > 0.98 * math.log(11)).all()


def test_entropy_rule_per_utterance_raises_the_weighted_mean() -> None:
    values = log_probs(20.0)
    values[0] = log_probs(0.5, seed=1)[0]
    weights = torch.rand(2, 30, 5, generator=torch.Generator().manual_seed(2))
    weights[:, 20:] = 0.0
    values[:, 20:] = values[:, :10].flip(1)
    weights /= weights.sum((1, 2), keepdim=True)
    exponents = choose_exponents(
        values, weights, PowerRule("entropy", entropy_floor=1.5, granularity="utterance")
    )
    assert (exponents == exponents[:, :1, :1]).all()
    mean = (weights * entropy(values, exponents)).sum((1, 2))
    assert exponents[0, 0, 0] == 1 and mean[0] > 1.5
    torch.testing.assert_close(mean[1], torch.tensor(1.5), rtol=1e-2, atol=0)


def test_utterances_without_nodes_are_harmless() -> None:
    for rule in ("fixed", "entropy", "confidence"):
        for granularity in ("node", "utterance"):
            exponents = choose_exponents(
                log_probs(5.0), torch.zeros(2, 30, 5), PowerRule(rule, granularity=granularity)
            )
            assert exponents.isfinite().all()


def test_confidence_rule_smooths_what_is_certain() -> None:
    values = torch.tensor([[[[0.9, 0.05, 0.05], [0.5, 0.3, 0.2]]]]).log()
    weights = torch.tensor([[[0.75, 0.25]]])
    per_node = choose_exponents(values, weights, PowerRule("confidence", exponent=0.4))
    torch.testing.assert_close(per_node, torch.tensor([[[0.4 + 0.6 * 0.1, 0.4 + 0.6 * 0.5]]]))
    rule = PowerRule("confidence", exponent=0.4, granularity="utterance")
    torch.testing.assert_close(
        choose_exponents(values, weights, rule), torch.full((1, 1, 2), 0.4 + 0.6 * (1 - 0.8))
    )


def test_fixed_rule_is_a_constant() -> None:
    assert (choose_exponents(log_probs(1.0), EVEN, PowerRule("fixed", exponent=0.3)) == 0.3).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "adaptive"}, "'adaptive'"),
        ({"granularity": "frame"}, "'frame'"),
        ({"exponent": 0.0}, "exponent 0.0"),
        ({"exponent": 1.5}, "exponent 1.5"),
        ({"entropy_floor": -1.0}, "entropy_floor -1.0"),
    ],
)
def test_impossible_rules_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PowerRule(**arguments)  # type: ignore[arg-type]
