"""Smoothing among the symbols alone: the blank keeps its probability, on both sides.

A power transform of all classes takes probability from a sure blank and gives it to symbols, so a student
that follows it learns to emit what the teacher does not. Here a node's distribution is a choice between blank
and symbol, which stays as it is, and one among the symbols, which is smoothed. By the chain rule

    D(p || q) = KL(blank or symbol) + (1 - P(blank)) T^2 KL(symbols of p, smoothed || symbols of q)

which is the plain divergence where the exponent is 1. Nodes where the teacher is sure of the blank weigh
nearly nothing in the second part, however large T^2 is. (Ours.)

Shapes: N nodes, V classes; suffix 2: blank, symbol.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.kl import KlForm, NextSymbols, PowerKl, power_kl_with_gradient, without
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule


class Parts(NamedTuple):
    """The two choices of a node, unnormalized."""

    blank_N2: Tensor
    """Blank, and all symbols together."""
    symbols_NV: Tensor
    """The blank's column is -inf."""


def split_blank(logits_NV: Tensor, blank: int) -> Parts:
    """The choice between blank (class `blank`) and symbol, and the one among symbols."""
    symbols_NV = logits_NV.clone()
    symbols_NV[:, blank] = -torch.inf
    return Parts(torch.stack((logits_NV[:, blank], symbols_NV.logsumexp(1)), dim=1), symbols_NV)


class SymbolKl(PowerKl):
    """`PowerKl` with the smoothing of this module. An entropy floor counts among the symbols."""

    def __init__(
        self,
        teacher: NodeLogits,
        rule: PowerRule,
        form: KlForm,
        base_BTK: Tensor,
        by_occupation: bool,
        blank: int,
        trusted: NextSymbols | None = None,
    ) -> None:
        """`blank`: its class; the others as in `PowerKl`.

        Raises:
            ValueError: a direction other than forward, for which the two parts do not add up.
        """
        if form.direction != "forward":
            raise ValueError(f"direction '{form.direction}': expected forward for smoothing among symbols")
        super().__init__(_Symbols(teacher, blank), rule, form, base_BTK, by_occupation, trusted)
        self.whole, self.blank = teacher, blank

    def begin(self, nodes: Nodes) -> None:
        """As in `PowerKl`; the symbols that the exponents were chosen by are not kept."""
        super().begin(nodes)
        self._teacher_NV = None

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        """The sum of both parts; the exponent is that among the symbols."""
        teacher_NV = self.whole.logits_of(nodes.frames_N, nodes.states_N)
        wrong_N, teacher = self._wrong(teacher_NV, nodes), split_blank(teacher_NV, self.blank)
        student = split_blank(student_NV, self.blank)
        exponents_N = self._exponents(teacher.symbols_NV, nodes)
        ones_N, plain = torch.ones_like(exponents_N), replace(self.form, temperature_squared=False)
        choice_N, choice_N2 = power_kl_with_gradient(student.blank_N2, teacher.blank_N2, ones_N, plain)
        among_N, gradient_NV = power_kl_with_gradient(
            student.symbols_NV, teacher.symbols_NV, exponents_N, self.form
        )
        symbol_N = teacher.blank_N2.softmax(1)[:, 1]
        values_N = choice_N + symbol_N * among_N
        if not with_gradient:
            return without(wrong_N, NodeValues(values_N, None, exponents_N))
        gradient_NV.mul_(symbol_N[:, None]).addcmul_(student.symbols_NV.softmax(1), choice_N2[:, 1:])
        gradient_NV[:, self.blank] = choice_N2[:, 0]
        weighted_NV = gradient_NV.mul_(nodes.weights_N.unsqueeze(1))
        return without(wrong_N, NodeValues(values_N, weighted_NV, exponents_N))


class _Symbols(NamedTuple):
    """A teacher's symbols without its blank, from which exponents of whole utterances are chosen."""

    logits: NodeLogits
    blank: int

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        return split_blank(self.logits.logits_of(frames_N, states_N), self.blank).symbols_NV
