"""How far a target distribution is smoothed: the exponent of a renormalized power transform.

`p^a / sum(p^a) = softmax(a * log p)`, a temperature of `1 / a`: an exponent below 1 smooths, 1 changes
nothing. The rules are ours, after the "power transformation based adaptive smoothness" of Tang et al. 2023
(arXiv 2306.15171), whose formula we did not have.

Shapes: B utterances, N lattice nodes, V classes.
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

STEPS = 8  # of the safeguarded Newton search; two near-equal maxima need the last ones


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
    min_exponent: float = MIN_EXPONENT
    """No exponent is smaller: T is at most the inverse of it."""
    annealed: float = 0.0
    """How far the exponents have moved from the rule's (0) to 1 (1), which smooths nothing."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule '{self.rule}': expected one of {', '.join(RULES)}")
        if self.granularity not in GRANULARITIES:
            raise ValueError(f"granularity '{self.granularity}': expected one of {', '.join(GRANULARITIES)}")
        if not 0.0 < self.exponent <= 1.0:
            raise ValueError(f"exponent {self.exponent}: expected a number in (0, 1]")
        if self.entropy_floor < 0.0:
            raise ValueError(f"entropy_floor {self.entropy_floor}: expected 0 or more nats")
        if not MIN_EXPONENT <= self.min_exponent <= 1.0:
            raise ValueError(f"min_exponent {self.min_exponent}: expected a number in [{MIN_EXPONENT}, 1]")
        if not 0.0 <= self.annealed <= 1.0:
            raise ValueError(f"annealed {self.annealed}: expected a number in [0, 1]")

    @property
    def is_bare(self) -> bool:
        """Whether the exponents are those of the rule, neither limited nor annealed."""
        return self.min_exponent == MIN_EXPONENT and self.annealed == 0.0

    def finish(self, exponents: Tensor) -> Tensor:
        """Exponents of the rule, limited and annealed."""
        exponents = exponents.clamp(min=self.min_exponent)
        return exponents + self.annealed * (1.0 - exponents)

    def floor(self, num_classes: int) -> float:
        """The entropy floor in nats; no distribution has more entropy than the uniform one."""
        return min(self.entropy_floor, 0.999 * math.log(num_classes))


@torch.no_grad()
def node_exponents(log_probs_NV: Tensor, rule: PowerRule) -> Tensor:
    """The exponent of every node, `(N,)`, in (0, 1].

    Args:
        log_probs_NV: normalized log-probabilities of the distributions to smooth.
        rule: which rule; its granularity does not matter here.

    Returns:
        Exponents: `fixed`: one constant; `entropy`: 1 where the entropy is above the floor, else the one that
        raises it to the floor (as far as exponents near `MIN_EXPONENT` can); `confidence`:
        `a_min + (1 - a_min) * (1 - max p)`. Then limited and annealed (`PowerRule.finish`).
    """
    return rule.finish(_node_exponents(log_probs_NV, rule))


def _node_exponents(log_probs_NV: Tensor, rule: PowerRule) -> Tensor:
    ones_N = log_probs_NV.new_ones(len(log_probs_NV))
    if rule.rule == "fixed":
        return ones_N * rule.exponent
    if rule.rule == "confidence":
        return _by_confidence(log_probs_NV.amax(-1).exp(), rule)
    floor = rule.floor(log_probs_NV.shape[-1])
    low_N = -(log_probs_NV.exp() * log_probs_NV).nan_to_num(nan=0.0).sum(-1) < floor
    if log_probs_NV.is_cuda:
        # Picking the nodes would make the CPU wait; solving for all of them is as fast there.
        return torch.where(low_N, _solve(_entropies_of(log_probs_NV), ones_N, floor), ones_N)
    low_NV = log_probs_NV[low_N]
    return ones_N.masked_scatter(low_N, _solve(_entropies_of(low_NV), low_NV.new_ones(len(low_NV)), floor))


@torch.no_grad()
def utterance_exponents(
    log_probs_NV: Tensor, rule: PowerRule, weights_N: Tensor, utterances_N: Tensor, num_utterances: int
) -> Tensor:
    """One exponent per utterance, `(B,)`: the rule applied to the weighted mean over its nodes.

    Args:
        log_probs_NV: normalized log-probabilities of all nodes that count.
        rule: which rule; its granularity does not matter here.
        weights_N: the nodes' weights; they need not sum to 1.
        utterances_N: the utterance of each node.
        num_utterances: B; one without nodes gets 1.
    """
    return rule.finish(_utterance_exponents(log_probs_NV, rule, weights_N, utterances_N, num_utterances))


def _utterance_exponents(
    log_probs_NV: Tensor, rule: PowerRule, weights_N: Tensor, utterances_N: Tensor, num_utterances: int
) -> Tensor:
    zeros_B = log_probs_NV.new_zeros(num_utterances)
    ones_B = torch.ones_like(zeros_B)
    if rule.rule == "fixed":
        return ones_B * rule.exponent
    sums_B = zeros_B.index_add(0, utterances_N, weights_N)
    weights_N = weights_N / sums_B.clamp(min=1e-20)[utterances_N]

    def mean(values_N: Tensor) -> Tensor:
        return zeros_B.index_add(0, utterances_N, weights_N * values_N)

    if rule.rule == "confidence":
        exponents_B = _by_confidence(mean(log_probs_NV.amax(-1).exp()), rule)
        return torch.where(sums_B > 0, exponents_B, ones_B)
    floor = rule.floor(log_probs_NV.shape[-1])
    entropies_of_nodes = _entropies_of(log_probs_NV)

    def mean_entropies(a_B: Tensor) -> tuple[Tensor, Tensor]:
        entropy_N, slope_N = entropies_of_nodes(a_B[utterances_N])
        return mean(entropy_N), mean(slope_N)

    enough_B = (mean_entropies(ones_B)[0] >= floor) | (sums_B <= 0)
    return torch.where(enough_B, ones_B, _solve(mean_entropies, ones_B, floor))


def _by_confidence(confidence: Tensor, rule: PowerRule) -> Tensor:
    return rule.exponent + (1.0 - rule.exponent) * (1.0 - confidence)


def _entropies_of(log_probs_NV: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The nodes' entropies and slopes as a function of their exponents."""
    # A class without probability counts nothing at any exponent.
    log_probs_NV = log_probs_NV.clamp(min=torch.finfo(log_probs_NV.dtype).min / 1e6)
    scratch_NV = torch.empty_like(log_probs_NV)
    return lambda a_N: _entropy_and_slope(log_probs_NV, a_N, scratch_NV)


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
    for _ in range(STEPS):
        entropy, slope = entropy_and_slope(a)
        entropy = entropy.clamp(min=1e-30)
        above = entropy > floor
        low, high = torch.where(above, a, low), torch.where(above, high, a)
        newton = a - (entropy / floor).log() * entropy / slope
        inside = (newton >= low) & (newton <= high)
        a = torch.where(inside, newton, 0.5 * (low + high))
    return a
