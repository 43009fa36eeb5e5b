"""KL divergence between the output distributions of teacher and student on a lattice's nodes.

Power-transformed targets after Tang et al. 2023 (arXiv 2306.15171); the directions after Andrusenko et al.
2026 (arXiv 2604.19079); the factor T^2 after Hinton et al. 2015 (arXiv 1503.02531).

Shapes: B utterances, T frames, K states of the pruned band, V classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdasr.losses.precision import as_float

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


def power_kl(
    student_logits_BTKV: Tensor,
    teacher_logits_BTKV: Tensor,
    node_weights_BTK: Tensor,
    exponents_BTK: Tensor,
    form: KlForm,
) -> Tensor:
    """Weighted sum over nodes of the divergence between power-transformed distributions.

    Args:
        student_logits_BTKV: unnormalised; the gradient goes here.
        teacher_logits_BTKV: unnormalised, of the same nodes; no gradient.
        node_weights_BTK: 0 for padding; sum them to 1 per utterance for a mean over nodes.
        exponents_BTK: from `kdasr.losses.power.choose_exponents`; all 1: the plain divergence.
        form: sides, direction and scale.

    Returns:
        `(B,)` nats, float32 (float64 for float64 logits).

    Raises:
        ValueError: shapes that differ.
    """
    if student_logits_BTKV.shape != teacher_logits_BTKV.shape:
        raise ValueError(
            f"student logits {tuple(student_logits_BTKV.shape)} and teacher logits "
            f"{tuple(teacher_logits_BTKV.shape)} differ in shape"
        )
    with torch.autocast(device_type=student_logits_BTKV.device.type, enabled=False):
        weights_BTK, exponents_BTK = node_weights_BTK.detach(), exponents_BTK.detach()
        scale_BTK1 = exponents_BTK.unsqueeze(-1)
        student = as_float(student_logits_BTKV)
        student = torch.log_softmax(scale_BTK1 * student if form.sides == "both" else student, dim=-1)
        teacher = torch.log_softmax(scale_BTK1 * as_float(teacher_logits_BTKV.detach()), dim=-1)
        kl_BTK = _divergence(student, teacher, form.direction)
        if form.temperature_squared:
            weights_BTK = weights_BTK / exponents_BTK.square()
        return (weights_BTK * kl_BTK).sum((1, 2))


def _divergence(student: Tensor, teacher: Tensor, direction: str) -> Tensor:
    """KL over the last dimension of log-probabilities."""
    difference = teacher - student
    if direction == "forward":
        return (teacher.exp() * difference).sum(-1)
    if direction == "reverse":
        return -(student.exp() * difference).sum(-1)
    return 0.5 * ((teacher.exp() - student.exp()) * difference).sum(-1)
