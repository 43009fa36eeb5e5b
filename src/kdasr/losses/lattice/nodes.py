"""Terms on a pruned lattice's nodes: what a divergence gets, gives, and where it is evaluated."""

# Shapes: B utterances, T frames, K states kept per frame, V classes; F valid frames, R nodes of all valid
# frames, N nodes with weight.

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.losses.lattice.blocks import Block, LatticePlan, UsedNodes
from kdasr.losses.lattice.joiner import Joint

MIN_WEIGHT = 1e-7
"""A term's weight at or below which a node is left out on the CPU. Weights sum to 1 over an utterance, so
float32 cannot tell."""


class Nodes(NamedTuple):
    """Lattice nodes with weight."""

    utterances_N: Tensor
    frames_N: Tensor
    """Rows of the flattened `(B * T, D)` encoder output."""
    states_N: Tensor
    """Rows of the flattened `(B * (S + 1), D)` predictor output."""
    weights_N: Tensor

    def part(self, begin: int, end: int) -> "Nodes":
        """Some of them, in order."""
        return Nodes(*(x[begin:end] for x in self))


class NodeValues(NamedTuple):
    """A divergence at some nodes."""

    value_N: Tensor
    """Nats, not weighted."""
    gradient_NV: Tensor | None
    """Derivative of `weight * value` by the student's logits; None when it was not asked for."""
    exponent_N: Tensor
    """How far the target was smoothed: 1 not at all."""


class NodeTerm(Protocol):
    """A divergence between the student's distribution at lattice nodes and a target, with its gradient."""

    def weigh(self, occupation_BTK: Tensor) -> Tensor:
        """Weights of the nodes `(B, T, K)`, which sum to 1 over an utterance or are all 0.

        `occupation_BTK`: how often the student's paths leave each node, without gradient.
        """
        ...

    def begin(self, nodes: Nodes) -> None:
        """See all nodes once, before `evaluate` gets them part by part in the same order."""
        ...

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        """The divergence at some nodes, given the student's logits there."""
        ...


@dataclass
class WeightedNodes:
    """The nodes that have weight, and where they stand in the blocks."""

    nodes: Nodes
    rows_N: Tensor
    """Each node's row in its block."""
    ends: list[int]
    """Where each block's nodes end."""

    def part(self, block: int) -> slice:
        """The nodes of a block."""
        return slice(self.ends[block - 1] if block else 0, self.ends[block])

    def add_gradient_(
        self, gradient: Tensor, term_NV: Tensor, block: int, term_grad_B: Tensor, used: UsedNodes
    ) -> None:
        """Add the term's gradient to a block's, times what comes from above."""
        part = self.part(block)
        scale = term_grad_B[self.nodes.utterances_N[part]]
        gradient.index_add_(0, used.places_of(self.rows_N[part]), term_NV * scale[:, None])


@dataclass
class Divergence:
    """A term's values and gradients, block by block."""

    nodes: WeightedNodes
    values: list[NodeValues]

    def sums(self, batch: int) -> tuple[Tensor, Tensor]:
        """Weighted sums of values and exponents, `(B,)` each."""
        nodes = self.nodes.nodes
        sums = nodes.weights_N.new_zeros((2, batch))
        if self.values:
            both = torch.stack(
                [torch.cat([getattr(v, name) for v in self.values]) for name in ("value_N", "exponent_N")]
            )
            sums.index_add_(1, nodes.utterances_N, both * nodes.weights_N)
        return sums[0], sums[1]


def diverge(
    student: Joint, plan: LatticePlan, term: NodeTerm, occupation_BTK: Tensor, blocks: list[Block]
) -> Divergence:
    weighted = nodes_with_weight(plan, term.weigh(occupation_BTK), student.lm_BSD.shape[1])
    term.begin(weighted.nodes)
    values, begin = [], 0
    for i, end in enumerate(weighted.ends):
        part = weighted.nodes.part(begin, end)
        if blocks:
            student_NV = blocks[i].logits_RV
            if not student_NV.is_cuda:
                student_NV = student_NV.index_select(0, weighted.rows_N[begin:end])
        else:
            student_NV = student.logits_of(part.frames_N, part.states_N)
        values.append(term.evaluate(student_NV, part, plan.with_gradient))
        begin = end
    return Divergence(weighted, values)


def nodes_with_weight(plan: LatticePlan, weights_BTK: Tensor, num_states: int) -> WeightedNodes:
    num_kept = plan.states_FK.shape[1]
    weights_R = plan.gather(weights_BTK).flatten()
    bounds = [block.stop * num_kept for block in plan.blocks()]
    if weights_R.is_cuda:
        # Counting them would make the CPU wait; the kernels skip rows without weight.
        chosen_N, ends = torch.arange(len(weights_R), device=weights_R.device), bounds
    else:
        chosen_N = (weights_R > MIN_WEIGHT).nonzero().squeeze(1)
        ends = torch.searchsorted(chosen_N, torch.tensor(bounds)).tolist()
    states_N = plan.states_FK.flatten()[chosen_N]
    nodes = Nodes(
        utterances_N=torch.div(states_N, num_states, rounding_mode="floor"),
        frames_N=plan.frames_F[torch.div(chosen_N, num_kept, rounding_mode="floor")],
        states_N=states_N,
        weights_N=weights_R[chosen_N],
    )
    rows_N, begin, row = chosen_N.clone(), 0, 0
    for end, bound in zip(ends, bounds, strict=True):
        rows_N[begin:end] -= row
        begin, row = end, bound
    return WeightedNodes(nodes, rows_N, ends)
