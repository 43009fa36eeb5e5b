"""The stage-two loss written the short way, by autograd: a slow reference for tests and benchmarks."""

# Shapes: B utterances, S symbols, T frames, K states of the pruned band, V classes, D joiner width.

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.kl import KlForm
from kdasr.losses.lattice.power import PowerRule, node_exponents
from kdasr.losses.pruned_rnnt import do_rnnt_pruning
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation


def joiner_logits(joint: Joint, ranges_BTK: Tensor) -> Tensor:
    """`(B, T, K, V)`."""
    am, lm = do_rnnt_pruning(joint.am_BTD, joint.lm_BSD, ranges_BTK)
    return torch.nn.functional.linear(torch.tanh(am + lm), joint.weight_VD, joint.bias_V)


def power_kl(
    student_BTKV: Tensor, teacher_BTKV: Tensor, weights_BTK: Tensor, exponents_BTK: Tensor, form: KlForm
) -> Tensor:
    """Weighted sum over nodes of the divergence between power-transformed distributions, `(B,)`."""
    scale = exponents_BTK.unsqueeze(-1)
    student = torch.log_softmax(scale * student_BTKV if form.sides == "both" else student_BTKV, dim=-1)
    teacher = torch.log_softmax(scale * teacher_BTKV.detach(), dim=-1)
    forward_BTK = (teacher.exp() * (teacher - student)).sum(-1)
    reverse_BTK = (student.exp() * (student - teacher)).sum(-1)
    kl_BTK = {"forward": forward_BTK, "reverse": reverse_BTK, "symmetric": 0.5 * (forward_BTK + reverse_BTK)}
    if form.temperature_squared:
        weights_BTK = weights_BTK / exponents_BTK.square()
    return (weights_BTK * kl_BTK[form.direction]).sum((1, 2))


def entropy_exponents(log_probs_BTKV: Tensor, floor: float, steps: int = 60) -> Tensor:
    """The exponents of the entropy rule, by bisection: 1 where the entropy is above the floor already."""
    low = torch.full_like(log_probs_BTKV[..., 0], 0.01)
    high = torch.ones_like(low)

    def entropy(a_BTK: Tensor) -> Tensor:
        smoothed = torch.log_softmax(a_BTK.unsqueeze(-1) * log_probs_BTKV, dim=-1)
        return -(smoothed.exp() * smoothed).sum(-1)

    enough = entropy(high) >= floor
    for _ in range(steps):
        middle = 0.5 * (low + high)
        above = entropy(middle) > floor
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return torch.where(enough, torch.ones_like(low), 0.5 * (low + high))


def stage_two_losses(
    student: Joint,
    teacher: Joint,
    symbols: Tensor,
    ranges: Tensor,
    blank: int,
    boundary: Tensor,
    rule: PowerRule,
    form: KlForm,
) -> tuple[Tensor, Tensor]:
    """Pruned loss and KL weighted by occupation, `(B,)` each, of utterances that fill their tensors."""
    logits = joiner_logits(student, ranges)
    rnnt_B, weights = pruned_loss_and_occupation(logits, symbols, ranges, blank, boundary)
    with torch.no_grad():
        teacher_logits = joiner_logits(teacher, ranges)
        log_probs = torch.log_softmax(teacher_logits, dim=-1)
        exponents = node_exponents(log_probs.flatten(0, 2), rule).view_as(weights)
    weights = weights / weights.sum((1, 2), keepdim=True)
    return rnnt_B, power_kl(logits, teacher_logits, weights, exponents, form)
