"""The collapsed divergence: between what a lattice node does next, and not between vocabularies.

Panchapagesan et al. 2021 (arXiv 2011.06110): a node of the lattice knows three classes, its next symbol,
blank and the rest, and in the last state, which has no next symbol, two. The power transform applies to the
collapsed distributions: a class's probability is summed first and raised to the exponent then.

Shapes: B utterances, S symbols, T frames, K states of the pruned band, N nodes, V classes; suffix 3: next
symbol, blank, rest.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.kl import KlForm, NextSymbols, PowerKl
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule

REST = 2
"""The last of the three classes."""


def collapse(logits_NV: Tensor, symbols_N: Tensor, blank: int) -> Tensor:
    """Unnormalized log-probabilities of the three classes, `(N, 3)`.

    Args:
        logits_NV: unnormalized.
        symbols_N: int64, the next symbol of each node; `blank` where there is none, which makes the first
            class impossible (-inf).
        blank: class of the blank.
    """
    symbols_N1 = symbols_N[:, None]
    rest_NV = logits_NV.scatter(1, symbols_N1, -torch.inf)
    rest_NV[:, blank] = -torch.inf
    symbol_N = logits_NV.gather(1, symbols_N1).squeeze(1).masked_fill(symbols_N == blank, -torch.inf)
    return torch.stack((symbol_N, logits_NV[:, blank], rest_NV.logsumexp(1)), dim=1)


def uncollapse_gradient(
    gradient_N3: Tensor, logits_NV: Tensor, collapsed_N3: Tensor, symbols_N: Tensor, blank: int
) -> Tensor:
    """The derivative by the logits, `(N, V)`, given that by what `collapse` made of them.

    A class of the rest gets a share by its probability within the rest.
    """
    rest_N1, share_N1 = collapsed_N3[:, 2:], gradient_N3[:, 2:]
    # Without a rest every class of it is -inf, and none gets anything.
    gradient_NV = (logits_NV - rest_N1.clamp(min=torch.finfo(rest_N1.dtype).min)).exp_().mul_(share_N1)
    # Nodes without weight may hold anything.
    gradient_NV.masked_fill_(share_N1 == 0.0, 0.0)
    gradient_NV.scatter_(1, symbols_N[:, None], gradient_N3[:, :1])
    gradient_NV[:, blank] = gradient_N3[:, 1]
    return gradient_NV


class _CollapsedTeacher(NamedTuple):
    logits: NodeLogits
    symbols: NextSymbols

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        logits_NV = self.logits.logits_of(frames_N, states_N)
        return collapse(logits_NV, self.symbols.flat_S[states_N], self.symbols.blank)


class CollapsedKl(PowerKl):
    """`PowerKl` between collapsed distributions, by the same kernels where there are any.

    An entropy floor counts up to the entropy of two even classes, so that a node of the last state is
    smoothed as far as the others.
    """

    def __init__(
        self,
        teacher: NodeLogits,
        rule: PowerRule,
        form: KlForm,
        base_BTK: Tensor,
        by_occupation: bool,
        symbols: NextSymbols,
        *,
        all_nodes: bool = True,
    ) -> None:
        """`symbols`: what the states of the lattice would emit. Without `all_nodes`, nodes count only where
        the teacher's best class is the next of these or blank. The others as in `PowerKl`."""
        rule = replace(rule, entropy_floor=rule.floor(2))
        trusted = None if all_nodes else symbols
        super().__init__(_CollapsedTeacher(teacher, symbols), rule, form, base_BTK, by_occupation, trusted)
        self.symbols = symbols

    def _wrong(self, teacher_NV: Tensor, nodes: Nodes) -> Tensor | None:
        return None if self.trusted is None else teacher_NV.argmax(1) == REST

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        """The divergence; its gradient is by the whole logits."""
        symbols_N, blank = self.symbols.flat_S[nodes.states_N], self.symbols.blank
        student_N3 = collapse(student_NV, symbols_N, blank)
        values = super().evaluate(student_N3, nodes, with_gradient)
        if values.gradient_NV is None or not with_gradient:
            return values
        gradient_NV = uncollapse_gradient(values.gradient_NV, student_NV, student_N3, symbols_N, blank)
        return values._replace(gradient_NV=gradient_NV)
