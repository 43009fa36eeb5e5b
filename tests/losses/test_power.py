import math

import pytest
import torch
from torch import Tensor

from kdasr.losses.lattice.power import MIN_EXPONENT, PowerRule, node_exponents, utterance_exponents


def log_probs(scale: float, seed: int = 0, vocab: int = 40) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    peaks = torch.rand(300, 1, generator=generator)
    logits = scale * peaks * torch.randn(300, vocab, generator=generator)
    return logits.log_softmax(-1)


def entropy(values: Tensor, exponents: Tensor) -> Tensor:
    smoothed = (exponents.unsqueeze(-1) * values).log_softmax(-1)
    return -(smoothed.exp() * smoothed).nan_to_num(nan=0.0).sum(-1)


@pytest.mark.parametrize("scale", [8.0, 15.0, 40.0])
@pytest.mark.parametrize("floor", [0.1, 0.5, 1.5])
def test_entropy_rule_reaches_the_floor_and_leaves_the_rest(scale: float, floor: float) -> None:
    values = log_probs(scale)
    exponents = node_exponents(values, PowerRule("entropy", entropy_floor=floor))
    before, after = entropy(values, torch.ones(300)), entropy(values, exponents)
    low = before < floor
    assert low.any() and not low.all()
    assert (exponents[~low] == 1).all() and (exponents[low] < 1).all()
    torch.testing.assert_close(after[low], torch.full_like(after[low], floor), rtol=1e-2, atol=0)


def test_entropy_rule_on_near_ties_and_near_certainty() -> None:
    logits = torch.zeros(3, 40)
    logits[0, 0] = 30.0
    logits[1, :2] = 60.0
    logits[2, 0] = 1000.0
    values = logits.log_softmax(-1)
    exponents = node_exponents(values, PowerRule("entropy", entropy_floor=1.0))
    torch.testing.assert_close(entropy(values, exponents)[:2], torch.ones(2), rtol=1e-2, atol=0)
    # No usable exponent smooths this one; the smallest is taken.
    torch.testing.assert_close(exponents[2], torch.tensor(MIN_EXPONENT), rtol=0.5, atol=0)


def test_classes_without_probability_do_not_disturb_the_entropy_rule() -> None:
    values = log_probs(15.0, vocab=11)
    padded = torch.cat((values, torch.full((300, 3), -torch.inf)), 1)
    rule = PowerRule("entropy", entropy_floor=0.7)
    torch.testing.assert_close(node_exponents(padded, rule), node_exponents(values, rule))


def test_a_floor_above_the_largest_entropy_is_lowered_to_it() -> None:
    values = log_probs(10.0, vocab=11)
    exponents = node_exponents(values, PowerRule("entropy", entropy_floor=50.0))
    assert exponents.isfinite().all() and (exponents >= MIN_EXPONENT).all() and (exponents <= 1).all()
    assert (entropy(values, exponents) > 0.98 * math.log(11)).all()


def test_entropy_rule_per_utterance_raises_the_weighted_mean() -> None:
    values = torch.cat((log_probs(0.5, seed=1), log_probs(20.0)))
    utterances = torch.arange(2).repeat_interleave(300)
    weights = torch.rand(600, generator=torch.Generator().manual_seed(2))
    rule = PowerRule("entropy", entropy_floor=1.5)
    exponents = utterance_exponents(values, rule, weights, utterances, 3)
    each = weights * entropy(values, exponents[utterances])
    mean = torch.zeros(2).index_add(0, utterances, each) / torch.zeros(2).index_add(0, utterances, weights)
    assert exponents[0] == 1 and mean[0] > 1.5
    torch.testing.assert_close(mean[1], torch.tensor(1.5), rtol=1e-2, atol=0)
    assert exponents[2] == 1, "an utterance without nodes"


def test_confidence_rule_smooths_what_is_certain() -> None:
    values = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.3, 0.2]]).log()
    rule = PowerRule("confidence", exponent=0.4)
    torch.testing.assert_close(node_exponents(values, rule), torch.tensor([0.4 + 0.6 * 0.1, 0.4 + 0.6 * 0.5]))
    weights, utterances = torch.tensor([3.0, 1.0]), torch.zeros(2, dtype=torch.int64)
    torch.testing.assert_close(
        utterance_exponents(values, rule, weights, utterances, 2), torch.tensor([0.4 + 0.6 * (1 - 0.8), 1.0])
    )


def test_fixed_rule_is_a_constant() -> None:
    rule = PowerRule("fixed", exponent=0.3)
    assert (node_exponents(log_probs(1.0), rule) == 0.3).all()
    utterances = torch.zeros(300, dtype=torch.int64)
    assert (utterance_exponents(log_probs(1.0), rule, torch.ones(300), utterances, 2) == 0.3).all()


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


@pytest.mark.parametrize("rule", ["fixed", "entropy", "confidence"])
def test_exponents_are_limited_and_then_annealed(rule: str) -> None:
    values = log_probs(5.0)
    bare = node_exponents(values, PowerRule(rule, exponent=0.2, entropy_floor=1.0))
    limited = node_exponents(values, PowerRule(rule, exponent=0.2, entropy_floor=1.0, min_exponent=0.5))
    assert (bare < 0.5).any()
    torch.testing.assert_close(limited, bare.clamp(min=0.5))
    halfway = PowerRule(rule, exponent=0.2, entropy_floor=1.0, min_exponent=0.5, annealed=0.5)
    torch.testing.assert_close(node_exponents(values, halfway), 0.5 * (limited + 1.0))
    utterances, weights = torch.zeros(len(values), dtype=torch.long), torch.ones(len(values))
    annealed = PowerRule(rule, exponent=0.2, entropy_floor=1.0, annealed=1.0)
    assert (utterance_exponents(values, annealed, weights, utterances, 1) == 1.0).all()
