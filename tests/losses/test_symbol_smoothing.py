"""Smoothing among symbols, against the formula written out, and against the plain divergence."""

import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from torch import Tensor

from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.symbol_smoothing import SymbolKl

FIXED = PowerRule("fixed", exponent=0.4)


class Logits:
    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV = logits_NV

    def logits_of(self, frames_N: Tensor, _: Tensor) -> Tensor:
        return self.logits_NV[frames_N]


def at_nodes(student_NV: Tensor, teacher_NV: Tensor, rule: PowerRule, form: KlForm) -> NodeValues:
    """Nodes of weight 2 in one utterance; the blank is class 1."""
    places = torch.arange(len(student_NV))
    nodes = Nodes(torch.zeros_like(places), places, places, torch.full((len(places),), 2.0).double())
    term = SymbolKl(Logits(teacher_NV), rule, form, torch.zeros(1, 1, 1), False, 1)  # type: ignore[arg-type]
    term.begin(nodes)
    return term.evaluate(student_NV, nodes, True)


def written_out(student_NV: Tensor, teacher_NV: Tensor, exponent: float, form: KlForm) -> Tensor:
    def parts(logits_NV: Tensor, power: float) -> tuple[Tensor, Tensor]:
        probs = logits_NV.softmax(-1)
        symbols = torch.cat((probs[:, :1], probs[:, 2:]), 1) ** power
        return probs[:, 1], symbols / symbols.sum(1, keepdim=True)

    blank_p, symbols_p = parts(teacher_NV, exponent)
    blank_q, symbols_q = parts(student_NV, exponent if form.sides == "both" else 1.0)
    choice = blank_p * (blank_p / blank_q).log() + (1 - blank_p) * ((1 - blank_p) / (1 - blank_q)).log()
    scale = exponent**-2 if form.temperature_squared else 1.0
    return choice + (1 - blank_p) * scale * (symbols_p * (symbols_p / symbols_q).log()).sum(1)


def random_logits() -> tuple[Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(0)).double()
    return student.requires_grad_(), teacher


@pytest.mark.parametrize("sides", ["target", "both"])
@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("granularity", ["node", "utterance"])
def test_value_and_gradient_are_those_of_the_formula(sides: str, squared: bool, granularity: str) -> None:
    student, teacher = random_logits()
    form = KlForm(sides=sides, temperature_squared=squared)
    ours = at_nodes(student.detach(), teacher, PowerRule("fixed", 0.4, granularity=granularity), form)
    theirs = written_out(student, teacher, 0.4, form)
    torch.testing.assert_close(ours.value_N, theirs.detach())
    (gradient,) = torch.autograd.grad(2 * theirs.sum(), student)
    assert ours.gradient_NV is not None
    torch.testing.assert_close(ours.gradient_NV, gradient)


def test_an_exponent_of_1_gives_the_plain_divergence() -> None:
    student, teacher = random_joint(), random_joint(1)
    ranges, rule, form = ranges_of(student), PowerRule("fixed", exponent=1.0), KlForm()
    valid = valid_nodes(ranges)
    terms = PowerKl(teacher, rule, form, valid, True), SymbolKl(teacher, rule, form, valid, True, 0)
    both = [
        joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term]).nodes[0].value_B for term in terms
    ]
    torch.testing.assert_close(both[1], both[0])
    grads = [torch.autograd.grad(value_B.sum(), student) for value_B in both]
    torch.testing.assert_close(grads[1], grads[0])


def test_a_sure_blank_says_nothing_about_symbols() -> None:
    """The teacher gives the blank all but 1e-9: smoothing moves no probability to symbols."""
    student = torch.tensor([[0.0, 3.0, 2.0, -1.0]]).double()
    teacher = torch.tensor([[-21.0, 0.0, -22.0, -23.0]]).double()
    rule, form = PowerRule("entropy", entropy_floor=1.0), KlForm(temperature_squared=True)
    plain = at_nodes(student, teacher, PowerRule("fixed", exponent=1.0), form)
    smoothed = at_nodes(student, teacher, rule, form)
    torch.testing.assert_close(smoothed.gradient_NV, plain.gradient_NV, rtol=0, atol=1e-6)
    places = torch.zeros(1, dtype=torch.long)
    nodes = Nodes(places, places, places, torch.full((1,), 2.0).double())
    all_classes = PowerKl(Logits(teacher), rule, form, torch.zeros(1, 1, 1), False)  # type: ignore[arg-type]
    gradient = all_classes.evaluate(student, nodes, True).gradient_NV
    assert gradient is not None and plain.gradient_NV is not None
    assert (gradient - plain.gradient_NV).abs().max() > 0.1  # all classes smoothed: it does


def test_the_exponent_is_that_among_the_symbols() -> None:
    _, teacher = random_logits()
    values = at_nodes(torch.zeros_like(teacher), teacher, PowerRule("entropy", entropy_floor=1.2), KlForm())
    symbols = torch.cat((teacher[:, :1], teacher[:, 2:]), 1)
    smoothed = (symbols * values.exponent_N[:, None]).softmax(1)
    entropies = -(smoothed * smoothed.log()).sum(1)
    plain = -(symbols.softmax(1) * symbols.log_softmax(1)).sum(1)
    torch.testing.assert_close(entropies, plain.clamp(min=1.2), rtol=1e-4, atol=1e-4)


def test_other_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="direction 'reverse'"):
        at_nodes(*random_logits(), FIXED, KlForm(direction="reverse"))
