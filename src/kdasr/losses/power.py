"""How far a target distribution is smoothed: the exponent of a renormalised power transform.

`p^a / sum(p^a) = softmax(a * log p)`, a temperature of `1 / a`: an exponent below 1 smooths, 1 changes
nothing. The rules are ours, after the "power transformation based adaptive smoothness" of Tang et al. 2023
(arXiv 2306.15171), whose formula is not public.

Shapes: B utterances, T frames, K states of the pruned band, N chosen nodes, V classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RULES = ("fixed", "entropy", "confidence")
GRANULARITIES = ("node", "utterance")

MIN_EXPONENT = 0.01
"""Below this a distribution over any usual vocabulary is as good as uniform, and 1 / a^2 explodes."""

_STEPS = 8  # of the safeguarded Newton search; two near-equal maxima need the last ones


@dataclass(frozen=True)
class PowerRule:
    """Which exponent each lattice node (or utterance) gets."""

    rule: str = "entropy"
    """fixed | entropy | confidence."""
    exponent: float = 0.7
    """`fixed`: the exponent; `confidence`: the smallest one."""
    entropy_floor: float = 0.5
    """`entropy`: raise the entropy to this many nats where it is lower."""
    granularity: str = "node"
    """node | utterance."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule '{self.rule}': expected one of {', '.join(RULES)}")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity '{self.granularity}': expected one of {', '.join(GRANULARITIES)}")
        if not 0.0 < self.exponent <= 1.0:
            raise ValueError(f"exponent {self.exponent}: expected a number in (0, 1]")
        if self.entropy_floor < 0.0:
            raise ValueError(f"entropy_floor {self.entropy_floor}: expected 0 or more nats")


@torch.no_grad()
def choose_exponents(log_probs_BTKV: Tensor, node_weights_BTK: Tensor, rule: PowerRule) -> Tensor:
    """The exponent of every node, `(B, T, K)`, in (0, 1].

    Args:
        log_probs_BTKV: normalised log-probabilities of the distributions to smooth.
        node_weights_BTK: 0 for nodes that do not count (their exponent is 1 or arbitrary); with granularity
            `utterance`, the weights of the mean over nodes that the rule is applied to.
        rule: which rule, at which granularity.

    Returns:
        Exponents: `fixed`: one constant; `entropy`: 1 where the entropy is above the floor, else the one that
        raises it to the floor; `confidence`: `a_min + (1 - a_min) * (1 - max p)`.
    """
    if rule.rule == "fixed":
        return torch.full_like(node_weights_BTK, rule.exponent)
    weights_BTK = node_weights_BTK
    per_utterance = rule.granularity == "utterance"
    if per_utterance:
        weights_BTK = weights_BTK / weights_BTK.sum((1, 2), keepdim=True).clamp(min=1e-20)
    if rule.rule == "confidence":
        confidence = log_probs_BTKV.amax(-1).exp()
        if per_utterance:
            confidence = (confidence * weights_BTK).sum((1, 2), keepdim=True).expand_as(weights_BTK)
        return rule.exponent + (1.0 - rule.exponent) * (1.0 - confidence)
    floor = min(rule.entropy_floor, 0.999 * math.log(log_probs_BTKV.shape[-1]))
    if per_utterance:
        return _floor_of_utterances(log_probs_BTKV, weights_BTK, floor)
    return _floor_of_nodes(log_probs_BTKV, weights_BTK, floor)


def _floor_of_nodes(log_probs_BTKV: Tensor, weights_BTK: Tensor, floor: float) -> Tensor:
    exponents = torch.ones_like(weights_BTK)
    entropy_BTK = -(log_probs_BTKV.exp() * log_probs_BTKV).sum(-1)
    low_BTK = (entropy_BTK < floor) & (weights_BTK > 0)
    log_probs_NV = log_probs_BTKV[low_BTK]
    scratch_NV = torch.empty_like(log_probs_NV)
    exponents[low_BTK] = _solve(
        lambda a_N: _entropy_and_slope(log_probs_NV, a_N, scratch_NV),
        start=exponents.new_ones(len(log_probs_NV)),
        floor=floor,
    )
    return exponents


def _floor_of_utterances(log_probs_BTKV: Tensor, weights_BTK: Tensor, floor: float) -> Tensor:
    valid_BTK = weights_BTK > 0
    log_probs_NV, weights_N = log_probs_BTKV[valid_BTK], weights_BTK[valid_BTK]
    scratch_NV = torch.empty_like(log_probs_NV)
    utterances_N = valid_BTK.nonzero()[:, 0]
    ones_B = weights_BTK.new_ones(len(weights_BTK))

    def mean_entropy(a_B: Tensor) -> tuple[Tensor, Tensor]:
        entropy_N, slope_N = _entropy_and_slope(log_probs_NV, a_B[utterances_N], scratch_NV)
        zeros_B = torch.zeros_like(a_B)
        return (
            zeros_B.index_add(0, utterances_N, weights_N * entropy_N),
            zeros_B.index_add(0, utterances_N, weights_N * slope_N),
        )

    enough_B = (mean_entropy(ones_B)[0] >= floor) | ~valid_BTK.any(2).any(1)
    exponents_B = torch.where(enough_B, ones_B, _solve(mean_entropy, start=ones_B, floor=floor))
    return exponents_B[:, None, None].expand_as(weights_BTK)


def _entropy_and_slope(log_probs_NV: Tensor, a_N: Tensor, scratch_NV: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of `softmax(a * log p)` and its derivative by a: `-a * Var(log p)`."""
    # Log-probabilities need no maximum taken off: the largest is above -log V.
    torch.mul(log_probs_NV, a_N[:, None], out=scratch_NV).exp_()
    total_N = scratch_NV.sum(-1)
    mean_N = scratch_NV.mul_(log_probs_NV).sum(-1) / total_N
    square_N = scratch_NV.mul_(log_probs_NV).sum(-1) / total_N
    return total_N.log() - a_N * mean_N, -a_N * (square_N - mean_N * mean_N)


def _solve(
    entropy_and_slope: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, floor: float
) -> Tensor:
    """The exponent at which a decreasing entropy crosses the floor, by Newton steps kept in a bracket.

    The steps are taken on the logarithm of the entropy, which for a peaked distribution is close to a
    straight line in the exponent.
    """
    low, high = torch.full_like(start, MIN_EXPONENT), torch.ones_like(start)
    a = 0.5 * start
    for _ in range(_STEPS):
        entropy, slope = entropy_and_slope(a)
        entropy = entropy.clamp(min=1e-30)
        above = entropy > floor
        low, high = torch.where(above, a, low), torch.where(above, high, a)
        newton = a - (entropy / floor).log() * entropy / slope
        inside = (newton >= low) & (newton <= high)
        a = torch.where(inside, newton, 0.5 * (low + high))
    return a
