"""The divergence between three classes per node, against probabilities summed by hand."""

from itertools import product

import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from straightforward import joiner_logits, power_kl
from torch import Tensor

from kdasr.losses.lattice.collapsed import CollapsedKl, collapse, uncollapse_gradient
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import DIRECTIONS, SIDES, KlForm, NextSymbols, PowerKl
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule, node_exponents

FORMS = [KlForm(*form) for form in product(SIDES, DIRECTIONS, (True, False))]
FIXED = PowerRule("fixed", exponent=0.6)
NEXT = NextSymbols.of(SYMBOLS, BOUNDARY[:, 2], blank=0)


class Logits:
    """A target that is given node by node."""

    def __init__(self, logits_NV: Tensor) -> None:
        self.logits_NV = logits_NV

    def logits_of(self, frames_N: Tensor, _: Tensor) -> Tensor:
        return self.logits_NV[frames_N]


def at_nodes(
    student_NV: Tensor,
    teacher_NV: Tensor,
    symbols_N: Tensor,
    form: KlForm | None = None,
    rule: PowerRule = FIXED,
) -> NodeValues:
    """The divergence of nodes with weight 1 and the blank at 0."""
    places = torch.arange(len(symbols_N))
    nodes = Nodes(places, places, places, torch.ones(len(symbols_N), dtype=student_NV.dtype))
    symbols = NextSymbols(symbols_N, 0)
    nothing = torch.zeros(len(symbols_N), 1, 1)
    term = CollapsedKl(Logits(teacher_NV), rule, form or KlForm(), nothing, False, symbols)  # type: ignore[arg-type]
    return term.evaluate(student_NV, nodes, True)


def random_nodes(num_classes: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher and next symbols; every third node is in the last state."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 12, num_classes, generator=generator, dtype=torch.float64)
    symbols = torch.randint(1, num_classes, (12,), generator=generator)
    return student, teacher, symbols.masked_fill(torch.arange(12) % 3 == 0, 0)


def three_classes(logits_BTKV: Tensor, symbols_BTK: Tensor) -> Tensor:
    """Log-probabilities of next symbol, blank and rest, by sums of probabilities; a missing class is tiny."""
    probs = logits_BTKV.softmax(-1)
    blank = probs[..., 0]
    symbol = probs.gather(-1, symbols_BTK[..., None])[..., 0] * (symbols_BTK != 0)
    return torch.stack((symbol, blank, 1 - symbol - blank), -1).clamp(min=1e-300).log()


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("by_occupation", [True, False])
def test_divergence_is_that_of_summed_probabilities(form: KlForm, by_occupation: bool) -> None:
    student, teacher = random_joint(), random_joint(1)
    ranges = ranges_of(student)
    term = CollapsedKl(teacher, FIXED, form, valid_nodes(ranges), by_occupation, NEXT)
    ours = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])
    weights = valid_nodes(ranges).double() * (ours.occupation_BTK if by_occupation else 1.0)
    weights /= weights.sum((1, 2), keepdim=True)
    symbols = torch.nn.functional.pad(SYMBOLS, (0, 1)).gather(1, ranges.flatten(1)).view_as(ranges)
    collapsed = [three_classes(joiner_logits(joint, ranges), symbols) for joint in (student, teacher)]
    theirs = power_kl(*collapsed, weights, torch.full_like(weights, 0.6), form)
    torch.testing.assert_close(ours.nodes[0].value_B, theirs)
    grads = torch.autograd.grad(ours.nodes[0].value_B.sum(), student)
    torch.testing.assert_close(grads, torch.autograd.grad(theirs.sum(), student))


def test_gradients_by_finite_differences() -> None:
    teacher, ranges = random_joint(1), ranges_of(random_joint())
    form = KlForm(direction="symmetric")

    def total(*tensors: Tensor) -> Tensor:
        term = CollapsedKl(teacher, FIXED, form, valid_nodes(ranges), False, NEXT)
        losses = joint_losses(Joint(*tensors), SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])
        return losses.rnnt_B + 0.7 * losses.nodes[0].value_B

    assert torch.autograd.gradcheck(total, tuple(random_joint()))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_of_three_classes_it_is_the_full_divergence(form: KlForm) -> None:
    student, teacher, symbols = random_nodes(num_classes=3)
    symbols = symbols.clamp(min=1)
    places = torch.arange(12)
    nodes = Nodes(places, places, places, torch.ones(12, dtype=torch.float64))
    full = PowerKl(Logits(teacher), FIXED, form, torch.zeros(12, 1, 1), False)
    expected = full.evaluate(student, nodes, True)
    ours = at_nodes(student, teacher, symbols, form)
    torch.testing.assert_close(tuple(ours), tuple(expected))


def with_another_rest(logits_NV: Tensor, symbols_N: Tensor) -> Tensor:
    """The same probabilities of next symbol and blank, and another distribution over the rest."""
    log_probs = logits_NV.log_softmax(-1)
    outside = torch.ones_like(log_probs, dtype=torch.bool).scatter(1, symbols_N[:, None], False)
    outside[:, 0] = False
    rest = log_probs.masked_fill(~outside, -torch.inf).logsumexp(1, keepdim=True)
    noise = torch.randn(log_probs.shape, generator=torch.Generator().manual_seed(9), dtype=log_probs.dtype)
    spread = noise.masked_fill(~outside, -torch.inf).log_softmax(1) + rest
    return torch.where(outside, spread, log_probs) + 3.0


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_how_the_rest_is_divided_does_not_matter(form: KlForm) -> None:
    student, teacher, symbols = random_nodes()
    expected = at_nodes(student, teacher, symbols, form)
    ours = at_nodes(student, with_another_rest(teacher, symbols), symbols, form)
    torch.testing.assert_close(tuple(ours), tuple(expected))
    divided = at_nodes(with_another_rest(student, symbols), teacher, symbols, form)
    torch.testing.assert_close(divided.value_N, expected.value_N)
    # So a student with the teacher's classes, and its own rest, has nothing to learn.
    if form.sides == "both":
        same = at_nodes(with_another_rest(teacher, symbols), teacher, symbols, form)
        torch.testing.assert_close(same.value_N, torch.zeros_like(same.value_N))
        torch.testing.assert_close(same.gradient_NV, torch.zeros_like(student))


def test_the_last_state_has_two_classes_whatever_pads_its_transcript() -> None:
    noisy = SYMBOLS.clone()
    noisy[1, 2:], noisy[2] = 5, 3
    symbols = NextSymbols.of(noisy, BOUNDARY[:, 2], blank=0)
    assert symbols.flat_S.view(3, 5).tolist() == [[1, 2, 2, 4, 0], [3, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    logits, _, _ = random_nodes()
    collapsed = collapse(logits, torch.zeros(12, dtype=torch.int64), 0).softmax(-1)
    probs = logits.softmax(-1)
    torch.testing.assert_close(collapsed[:, 1], probs[:, 0])
    torch.testing.assert_close(collapsed[:, 2], probs[:, 1:].sum(1))
    assert not collapsed[:, 0].any()


def test_exponents_are_those_of_the_three_classes() -> None:
    student, teacher, symbols = random_nodes()
    rule = PowerRule("entropy", entropy_floor=50.0)
    exponents = at_nodes(student, 3 * teacher, symbols, rule=rule).exponent_N
    smoothed = (exponents[:, None] * collapse(3 * teacher, symbols, 0)).log_softmax(-1)
    entropies = -(smoothed.exp() * smoothed).nan_to_num(nan=0.0).sum(1)
    raised = exponents < 1
    torch.testing.assert_close(
        entropies[raised], torch.full_like(entropies[raised], 0.999 * 0.693147), rtol=0.01, atol=0
    )
    assert raised[::3].all() and (entropies[~raised] > 0.69).all()
    sure = PowerRule("confidence", exponent=0.3)
    expected = node_exponents(collapse(teacher, symbols, 0).log_softmax(-1), sure)
    torch.testing.assert_close(at_nodes(student, teacher, symbols, rule=sure).exponent_N, expected)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_impossible_classes_give_no_nan(direction: str) -> None:
    """Nodes without a rest, or whose rest only the teacher has."""
    form = KlForm(direction=direction)
    student, teacher, _ = random_nodes()
    symbols = torch.ones(12, dtype=torch.int64)
    rows = at_nodes(student[:, :2], teacher[:, :2], symbols, form)
    assert rows.gradient_NV is not None and rows.gradient_NV.isfinite().all()
    assert (rows.value_N > 0).all()
    student[:, 2:] = -torch.inf
    rows = at_nodes(student, teacher, symbols, form)
    assert rows.gradient_NV is not None
    assert not rows.value_N.isnan().any() and not rows.gradient_NV.isnan().any()


def test_nodes_without_weight_have_no_gradient_whatever_they_hold() -> None:
    student, _, symbols = random_nodes()
    student[2] = torch.nan
    collapsed = collapse(student, symbols, 0)
    gradient = uncollapse_gradient(torch.zeros_like(collapsed), student, collapsed, symbols, 0)
    assert not gradient.any()
