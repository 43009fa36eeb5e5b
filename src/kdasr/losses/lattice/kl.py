"""KL divergence between the output distributions of teacher and student on a lattice's nodes.

Power-transformed targets after Tang et al. 2023 (arXiv 2306.15171); the directions after Andrusenko et al.
2026 (arXiv 2604.19079); the factor T^2 after Hinton et al. 2015 (arXiv 1503.02531).

Shapes: B utterances, T frames, K states of the pruned band, N nodes, V classes.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.kernels import node_kernels
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule, node_exponents, utterance_exponents

SIDES = ("target", "both")
DIRECTIONS = ("forward", "reverse", "symmetric")


@dataclass(frozen=True)
class KlForm:
    """Which divergence, given the exponents of the power transform."""

    sides: str = "both"
    """target | both: whether the student's distribution is transformed too."""
    direction: str = "forward"
    """forward KL(teacher || student) | reverse | symmetric (the mean of the two)."""
    temperature_squared: bool = True
    """Multiply each node by T^2 = exponent^-2, which keeps the gradient's scale."""

    def __post_init__(self) -> None:
        if self.sides not in SIDES:
            raise ValueError(f"sides '{self.sides}': expected one of {', '.join(SIDES)}")
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction '{self.direction}': expected one of {', '.join(DIRECTIONS)}")


def power_kl_with_gradient(
    student_NV: Tensor, teacher_NV: Tensor, exponents_N: Tensor, form: KlForm
) -> tuple[Tensor, Tensor]:
    """Divergence between power-transformed distributions of each node, and its gradient.

    With target p, student q and a student's exponent c (1 unless both sides are transformed), the derivative
    by the student's logits is `c (q - p)` for KL(p || q), and `c q (log q - log p - KL(q || p))` for the
    reverse.

    Args:
        student_NV: unnormalized.
        teacher_NV: unnormalized, of the same nodes.
        exponents_N: from `kdasr.losses.lattice.power`; all 1: the plain divergence.
        form: sides, direction and scale.

    Returns:
        `(N,)` nats and `(N, V)`, the derivative by `student_NV`.
    """
    exponents_N1 = exponents_N.unsqueeze(1)
    both = form.sides == "both"
    student = torch.log_softmax(student_NV * exponents_N1 if both else student_NV, dim=-1)
    teacher = torch.log_softmax(teacher_NV * exponents_N1, dim=-1)
    p, q = teacher.exp(), student.exp()
    log_ratio = teacher.sub_(student)
    # Looking costs one fast pass, the masks many; on a GPU looking would make the CPU wait.
    masked = log_ratio.is_cuda or not math.isfinite(float(log_ratio.sum()))
    if masked:
        # A class that neither side allows: -inf - -inf.
        log_ratio.masked_fill_((p == 0.0) & (q == 0.0), 0.0)
    scale_N = exponents_N.square().reciprocal() if form.temperature_squared else torch.ones_like(exponents_N)
    slope_N = scale_N * exponents_N if both else scale_N
    if form.direction == "forward":
        return scale_N * _expectation(p, log_ratio, masked), q.sub_(p).mul_(slope_N.unsqueeze(1))
    reverse_N = -_expectation(q, log_ratio, masked)
    gradient = (log_ratio + reverse_N.unsqueeze(1)).mul_(q).neg_()
    if masked:
        gradient.masked_fill_(q == 0.0, 0.0)
    if form.direction == "reverse":
        return scale_N * reverse_N, gradient.mul_(slope_N.unsqueeze(1))
    value_N = 0.5 * (_expectation(p, log_ratio, masked) + reverse_N)
    return scale_N * value_N, gradient.add_(q).sub_(p).mul_(0.5 * slope_N.unsqueeze(1))


def _expectation(probs_NV: Tensor, values_NV: Tensor, masked: bool) -> Tensor:
    """Mean of the values; a class without probability counts nothing, whatever its value, where `masked`."""
    products_NV = probs_NV * values_NV
    if masked:
        products_NV.masked_fill_(probs_NV == 0.0, 0.0)
    return products_NV.sum(1)


class NextSymbols(NamedTuple):
    """The next symbol of each state of the lattice."""

    flat_S: Tensor
    """Of rows of the flattened `(B * (S + 1), D)` predictor output; blank where the transcript is over."""
    blank: int

    @classmethod
    def of(cls, symbols_BS: Tensor, lens_B: Tensor, blank: int) -> "NextSymbols":
        """Of transcripts `(B, S)`, padded with anything beyond their lengths."""
        states_S = torch.arange(symbols_BS.shape[1] + 1, device=symbols_BS.device)
        over_BS = states_S >= lens_B.to(symbols_BS.device, non_blocking=True)[:, None]
        return cls(functional.pad(symbols_BS, (0, 1)).masked_fill(over_BS, blank).flatten(), blank)

    def differ_from(self, logits_NV: Tensor, states_N: Tensor) -> Tensor:
        """Whether the best class of each node is neither the blank nor the next symbol of its state."""
        best_N = logits_NV.argmax(1)
        return (best_N != self.blank) & (best_N != self.flat_S[states_N])


def without(nodes_N: Tensor | None, values: NodeValues) -> NodeValues:
    """Values and gradients of a divergence, 0 at some nodes; None: at no node."""
    if nodes_N is None:
        return values
    gradient_NV = values.gradient_NV
    if gradient_NV is not None:
        gradient_NV = gradient_NV.masked_fill(nodes_N[:, None], 0.0)
    return NodeValues(values.value_N.masked_fill(nodes_N, 0.0), gradient_NV, values.exponent_N)


class PowerKl:
    """The divergence of a student from a teacher's joiner on the nodes of the student's lattice.

    A `kdasr.losses.lattice.nodes.NodeTerm`. The teacher's joiner is evaluated on nodes with weight only.
    """

    def __init__(
        self,
        teacher: NodeLogits,
        rule: PowerRule,
        form: KlForm,
        base_BTK: Tensor,
        by_occupation: bool,
        trusted: NextSymbols | None = None,
    ) -> None:
        """
        Args:
            teacher: joiner and projected inputs, of the student's frames and states.
            rule: how the exponents are chosen.
            form: which divergence.
            base_BTK: weights to start from: 0 outside the utterance; elsewhere 1, or what the teacher says
                (`kdasr.losses.lattice.node_weights`). They need not sum to 1.
            by_occupation: multiply them by the student's occupation.
            trusted: only nodes count at which the teacher's best class is the blank or the next of these
                symbols. None: all do.
        """
        self.trusted = trusted
        self.teacher, self.rule, self.form = teacher, rule, form
        self.base_BTK, self.by_occupation = base_BTK, by_occupation
        self._exponents_B: Tensor | None = None
        self._teacher_NV: Tensor | None = None

    def weigh(self, occupation_BTK: Tensor) -> Tensor:
        """Weights that sum to 1 over an utterance's nodes."""
        weights_BTK = self.base_BTK.to(occupation_BTK.dtype)
        if self.by_occupation:
            weights_BTK = weights_BTK * occupation_BTK
        return weights_BTK / weights_BTK.sum((1, 2), keepdim=True).clamp(min=1e-20)

    def begin(self, nodes: Nodes) -> None:
        """Choose the exponents where they depend on a whole utterance; keeps the teacher's logits for it."""
        if self.rule.granularity != "utterance" or self.rule.rule == "fixed":
            return
        self._teacher_NV = self.teacher.logits_of(nodes.frames_N, nodes.states_N)
        log_probs_NV = torch.log_softmax(self._teacher_NV, dim=-1)
        self._exponents_B = utterance_exponents(
            log_probs_NV, self.rule, nodes.weights_N, nodes.utterances_N, len(self.base_BTK)
        )

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        """The divergence, with the exponents that the rule gives each node or its utterance."""
        teacher_NV = self._teacher_logits(nodes)
        wrong_N = self._wrong(teacher_NV, nodes)
        kernels = node_kernels(teacher_NV)
        if kernels:
            return without(wrong_N, self._by_kernels(kernels, student_NV, teacher_NV, nodes))
        exponents_N = self._exponents(teacher_NV, nodes)
        value_N, gradient_NV = power_kl_with_gradient(student_NV, teacher_NV, exponents_N, self.form)
        weighted_NV = gradient_NV.mul_(nodes.weights_N.unsqueeze(1)) if with_gradient else None
        return without(wrong_N, NodeValues(value_N, weighted_NV, exponents_N))

    def _wrong(self, teacher_NV: Tensor, nodes: Nodes) -> Tensor | None:
        """The nodes at which the teacher says something else than the transcript; None: they count too."""
        return None if self.trusted is None else self.trusted.differ_from(teacher_NV, nodes.states_N)

    def _teacher_logits(self, nodes: Nodes) -> Tensor:
        if self._teacher_NV is None:
            return self.teacher.logits_of(nodes.frames_N, nodes.states_N)
        logits_NV, self._teacher_NV = self._teacher_NV.tensor_split([len(nodes.weights_N)])
        return logits_NV

    def _by_kernels(self, kernels: Any, student_NV: Tensor, teacher_NV: Tensor, nodes: Nodes) -> NodeValues:
        weights_N = nodes.weights_N
        if self._exponents_B is None and self.rule.is_bare:
            value_N, exponents_N = kernels.kl_rows_(student_NV, teacher_NV, weights_N, self.rule, self.form)
        else:
            exponents_N = self._exponents(teacher_NV, nodes)
            value_N = kernels.kl_rows_given_(student_NV, teacher_NV, weights_N, exponents_N, self.form)
        return NodeValues(value_N, teacher_NV, exponents_N)

    def _exponents(self, teacher_NV: Tensor, nodes: Nodes) -> Tensor:
        if self._exponents_B is not None:
            return self._exponents_B[nodes.utterances_N]
        return node_exponents(torch.log_softmax(teacher_NV, dim=-1), self.rule)
