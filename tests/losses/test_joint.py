"""The joiner, the pruned loss and the divergence in one pass, against the same written the short way."""

from itertools import product
from typing import Any

import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from straightforward import entropy_exponents, joiner_logits, power_kl
from torch import Tensor

from kdasr.losses.lattice import blocks
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import JointLosses, joint_losses
from kdasr.losses.lattice.kl import DIRECTIONS, SIDES, KlForm, PowerKl
from kdasr.losses.lattice.power import PowerRule, node_exponents, utterance_exponents
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation

FIXED = PowerRule("fixed", exponent=0.6)


def evaluate(
    student: Joint,
    teacher: Joint,
    form: KlForm,
    rule: PowerRule = FIXED,
    by_occupation: bool = True,
    **options,
) -> tuple[JointLosses, Tensor]:
    ranges = ranges_of(student)
    term = PowerKl(teacher, rule, form, valid_nodes(ranges), by_occupation)
    return joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term], **options), ranges


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one not full."""
    monkeypatch.setitem(blocks.NODES_AT_ONCE, "cpu", 13)


@pytest.mark.parametrize("keep_logits", [True, False])
@pytest.mark.parametrize("rnnt_type", ["regular", "modified", "constrained"])
def test_loss_and_gradients_are_those_of_the_joiners_logits(rnnt_type: str, keep_logits: bool) -> None:
    student = random_joint()
    ranges = ranges_of(student, rnnt_type)
    settings = {"rnnt_type": rnnt_type, "delay_penalty": 0.02}
    ours = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, keep_logits=keep_logits, **settings)
    theirs, occupation = pruned_loss_and_occupation(
        joiner_logits(student, ranges), SYMBOLS, ranges, 0, BOUNDARY, **settings
    )
    torch.testing.assert_close(ours.rnnt_B, theirs)
    torch.testing.assert_close(ours.occupation_BTK[valid_nodes(ranges)], occupation[valid_nodes(ranges)])
    scale = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((ours.rnnt_B * scale).sum(), student),
        torch.autograd.grad((theirs * scale).sum(), student),
    )


@pytest.mark.parametrize("keep_logits", [True, False])
def test_what_float32_leaves_out_is_below_its_precision(
    keep_logits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sure student most nodes are on no likely path: float32 leaves out more of them than float64."""
    taken = {}
    usual = blocks.UsedNodes.of

    def counted(*args: Any) -> blocks.UsedNodes:
        used = usual(*args)
        taken[dtype] = taken.get(dtype, 0) + len(used.states_R)
        return used

    monkeypatch.setattr(blocks.UsedNodes, "of", counted)
    am, lm, weight, bias = random_joint()
    teacher = random_joint(1)
    grads = {}
    for dtype in (torch.float64, torch.float32):
        sure = (x.detach().to(dtype).requires_grad_() for x in (am, lm, 25 * weight, bias))
        student = Joint(*sure)
        other = Joint(*(x.detach().to(dtype) for x in teacher))
        losses, ranges = evaluate(student, other, KlForm(), keep_logits=keep_logits)
        total = (losses.rnnt_B + losses.nodes[0].value_B).sum()
        grads[dtype] = torch.autograd.grad(total, student)
    assert 0 < taken[torch.float32] < taken[torch.float64] < ranges.numel()
    for ours, exact in zip(grads[torch.float32], grads[torch.float64], strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))


@pytest.mark.parametrize("keep_logits", [True, False])
@pytest.mark.parametrize("by_occupation", [True, False])
@pytest.mark.parametrize("form", [KlForm(*x) for x in product(SIDES, DIRECTIONS, (True, False))], ids=str)
def test_divergence_is_that_of_whole_tensors(form: KlForm, by_occupation: bool, keep_logits: bool) -> None:
    student, teacher = random_joint(), random_joint(1)
    ours, ranges = evaluate(student, teacher, form, FIXED, by_occupation, keep_logits=keep_logits)
    weights = valid_nodes(ranges).double() * (ours.occupation_BTK if by_occupation else 1.0)
    weights /= weights.sum((1, 2), keepdim=True)
    theirs = power_kl(
        joiner_logits(student, ranges),
        joiner_logits(teacher, ranges),
        weights,
        torch.full_like(weights, FIXED.exponent),
        form,
    )
    torch.testing.assert_close(ours.nodes[0].value_B, theirs)
    grads = torch.autograd.grad(ours.nodes[0].value_B.sum(), student)
    torch.testing.assert_close(grads, torch.autograd.grad(theirs.sum(), student))
    torch.testing.assert_close(ours.nodes[0].exponent_B, torch.full((3,), 0.6, dtype=torch.float64))


def test_both_losses_share_the_backward_pass() -> None:
    student, teacher = random_joint(), random_joint(1)
    losses, _ = evaluate(student, teacher, KlForm())
    both = torch.autograd.grad(
        (2 * losses.rnnt_B + 3 * losses.nodes[0].value_B).sum(), student, retain_graph=True
    )
    rnnt = torch.autograd.grad(losses.rnnt_B.sum(), student, retain_graph=True)
    kl = torch.autograd.grad(losses.nodes[0].value_B.sum(), student)
    torch.testing.assert_close(both, tuple(2 * a + 3 * b for a, b in zip(rnnt, kl, strict=True)))


def test_zero_for_the_teacher_itself() -> None:
    student = random_joint()
    for form in (KlForm(), KlForm(direction="reverse"), KlForm(direction="symmetric")):
        losses, _ = evaluate(student, Joint(*(x.detach() for x in student)), form)
        torch.testing.assert_close(losses.nodes[0].value_B, torch.zeros(3, dtype=torch.float64))
        for grad in torch.autograd.grad(losses.nodes[0].value_B.sum(), student):
            torch.testing.assert_close(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("rule", ["entropy", "confidence"])
@pytest.mark.parametrize("granularity", ["node", "utterance"])
def test_rules_see_the_teachers_nodes(rule: str, granularity: str) -> None:
    student, teacher = random_joint(), Joint(*(2 * x for x in random_joint(1)))
    chosen = PowerRule(rule, exponent=0.4, entropy_floor=1.2, granularity=granularity)
    losses, ranges = evaluate(student, teacher, KlForm(), chosen)
    log_probs = joiner_logits(teacher, ranges).log_softmax(-1)
    weights = valid_nodes(ranges) * losses.occupation_BTK
    weights /= weights.sum((1, 2), keepdim=True)
    if granularity == "utterance":
        utterances = torch.arange(3)[:, None, None].expand_as(ranges).flatten()
        each = utterance_exponents(log_probs.flatten(0, 2), chosen, weights.flatten(), utterances, 3)
        exponents = each[:, None, None].expand_as(weights)
    elif rule == "entropy":
        exponents = entropy_exponents(log_probs, 1.2)
    else:
        exponents = node_exponents(log_probs.flatten(0, 2), chosen).view_as(weights)
    assert exponents.std() > 0.01
    expected = power_kl(
        joiner_logits(student, ranges), joiner_logits(teacher, ranges), weights, exponents, KlForm()
    )
    torch.testing.assert_close(losses.nodes[0].value_B, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        losses.nodes[0].exponent_B, (weights * exponents).sum((1, 2)), rtol=1e-4, atol=1e-6
    )


def test_gradients_by_finite_differences() -> None:
    """With uniform weights and a fixed band nothing of the sum is held constant but the teacher."""
    teacher = random_joint(1)
    ranges = ranges_of(random_joint())

    def total(*tensors: Tensor) -> Tensor:
        term = PowerKl(teacher, FIXED, KlForm(direction="symmetric"), valid_nodes(ranges), False)
        losses = joint_losses(Joint(*tensors), SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])
        return losses.rnnt_B + 0.7 * losses.nodes[0].value_B

    assert torch.autograd.gradcheck(total, tuple(random_joint()))


def test_padding_does_not_matter() -> None:
    student, teacher = random_joint(), random_joint(1)
    expected, ranges = evaluate(student, teacher, KlForm())
    am, lm = student.am_BTD.detach().clone(), student.lm_BSD.detach().clone()
    am[1, 5:], am[2, 6:], lm[1, 3:], lm[2, 1:] = torch.nan, 5.0, -7.0, 9.0
    noisy = student._replace(am_BTD=am.requires_grad_(), lm_BSD=lm.requires_grad_())
    noisy_ranges = ranges.clone()
    term = PowerKl(teacher, FIXED, KlForm(), valid_nodes(ranges), True)
    losses = joint_losses(noisy, SYMBOLS, noisy_ranges, 0, BOUNDARY, nodes=[term])
    torch.testing.assert_close(
        (losses.rnnt_B, losses.nodes[0].value_B), (expected.rnnt_B, expected.nodes[0].value_B)
    )
    (losses.rnnt_B + losses.nodes[0].value_B).sum().backward()
    assert am.grad is not None and not am.grad[1, 5:].any() and am.grad[1, :5].all(1).any()
    assert lm.grad is not None and not lm.grad[1, 3:].any()


def test_half_precision_inputs_give_float32_losses() -> None:
    exact, teacher = random_joint(dtype=torch.float32), random_joint(1, torch.float32)
    expected, ranges = evaluate(exact, teacher, KlForm())
    am, lm = (x.detach().bfloat16().requires_grad_() for x in exact[:2])
    half_teacher = teacher._replace(am_BTD=teacher.am_BTD.bfloat16(), lm_BSD=teacher.lm_BSD.bfloat16())
    term = PowerKl(half_teacher, FIXED, KlForm(), valid_nodes(ranges), True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = joint_losses(
            Joint(am, lm, exact.weight_VD, exact.bias_V), SYMBOLS, ranges, 0, BOUNDARY, nodes=[term]
        )
    assert losses.rnnt_B.dtype == losses.nodes[0].value_B.dtype == torch.float32
    torch.testing.assert_close(losses.rnnt_B, expected.rnnt_B, rtol=0.02, atol=0.05)
    torch.testing.assert_close(losses.nodes[0].value_B, expected.nodes[0].value_B, rtol=0.05, atol=0.01)
    (losses.rnnt_B + losses.nodes[0].value_B).sum().backward()
    assert am.grad is not None and am.grad.dtype == torch.bfloat16
    assert exact.weight_VD.grad is not None and exact.weight_VD.grad.dtype == torch.float32


def test_an_utterance_that_no_path_fits_costs_inf_and_moves_nothing() -> None:
    student = random_joint()
    ranges = torch.arange(2).expand(3, 7, 2).contiguous()  # state 4 is never reached
    losses = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY)
    assert losses.rnnt_B.isposinf().tolist() == [True, True, False]
    losses.rnnt_B.sum().backward()
    assert student.am_BTD.grad is not None
    assert not student.am_BTD.grad[:2].any() and student.am_BTD.grad[2].any()


@pytest.mark.parametrize("num_frames", [0, 7])
def test_utterances_without_frames(num_frames: int) -> None:
    student, teacher = random_joint(), random_joint(1)
    student = student._replace(am_BTD=student.am_BTD[:, :num_frames])
    boundary = torch.tensor([[0, 0, 4, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    ranges = torch.arange(3).expand(3, num_frames, 3)
    nothing = torch.zeros(3, num_frames, 3, dtype=torch.bool)
    term = PowerKl(teacher, FIXED, KlForm(), nothing, True)
    losses = joint_losses(student, SYMBOLS, ranges, 0, boundary, nodes=[term])
    assert losses.rnnt_B.tolist() == [torch.inf, torch.inf, 0.0]
    assert losses.nodes[0].value_B.tolist() == [0.0] * 3
    (losses.rnnt_B + losses.nodes[0].value_B).sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"symbols": SYMBOLS + 3}, r"symbols\[0, 3\] is 7: expected a class below 6"),
        ({"boundary": torch.tensor([[0, 0, 4, 7], [0, 0, 2, 8], [0, 0, 0, 6]])}, r"boundary\[1\].*<= 7"),
        (
            {"ranges": torch.arange(3).expand(3, 7, 3).flip(2)},
            r"ranges\[0, 0, 1\] is 1: expected consecutive",
        ),
        ({"ranges": torch.arange(4, 7).expand(3, 7, 3)}, r"ranges\[0, 0, 1\] is 5: expected states up to 4"),
        ({"ranges": torch.arange(3).expand(3, 6, 3)}, r"with ranges \(3, 6, 3\)"),
        ({"termination_symbol": 6}, "termination_symbol 6"),
        ({"ranges": torch.arange(3)}, r"ranges \(3,\)"),
        ({"ranges": torch.zeros(3, 7, 3)}, "torch.float32: expected .* int64"),
        ({"ranges": torch.arange(1, 4).expand(3, 7, 3)}, r"ranges\[0, 0, 0\] is 1: expected state 0"),
        (
            {"boundary": torch.tensor([[0, 0, 4, 7], [0, 1, 2, 5], [0, 0, 0, 6]])},
            r"boundary\[1\].*t_begin = 0",
        ),
        ({"delay_penalty": -0.1}, "delay_penalty -0.1"),
    ],
)
def test_bad_arguments_are_named_with_the_first_offender(change: dict[str, object], message: str) -> None:
    given = {
        "symbols": SYMBOLS,
        "ranges": ranges_of(random_joint()),
        "termination_symbol": 0,
        "boundary": BOUNDARY,
    }
    with pytest.raises(ValueError, match=message):
        joint_losses(random_joint(), **(given | change))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"weight_VD": torch.zeros(6, 5)}, r"weight \(6, 5\): expected one width"),
        ({"bias_V": torch.zeros(5)}, r"bias \(5,\): expected \(6,\)"),
        ({"bias_V": None}, "bias None"),
        ({"lm_BSD": torch.zeros(2, 5, 4)}, r"lm \(2, 5, 4\)"),
    ],
)
def test_a_joint_that_does_not_fit_together_is_named(part: dict[str, Tensor | None], message: str) -> None:
    student = random_joint()
    with pytest.raises(ValueError, match=message):
        joint_losses(student._replace(**part), SYMBOLS, ranges_of(student), 0, BOUNDARY)


@pytest.mark.parametrize("which", ["teacher", "student"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_nan_passes_through_to_the_losses_of_its_utterance(which: str, direction: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    ranges = ranges_of(student)
    ill = (student if which == "student" else teacher).am_BTD.detach().clone()
    ill[1, 2, 0] = torch.nan
    student, teacher = (
        (student._replace(am_BTD=ill), teacher)
        if which == "student"
        else (student, teacher._replace(am_BTD=ill))
    )
    with torch.no_grad():
        term = PowerKl(teacher, FIXED, KlForm(direction=direction), valid_nodes(ranges), True)
        losses = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])
    assert losses.nodes[0].value_B.isnan().tolist() == [False, True, False]
    assert losses.rnnt_B.isnan().tolist() == [False, which == "student", False]


@pytest.mark.parametrize("needed", ["am_BTD", "lm_BSD", "weight_VD", "bias_V"])
def test_only_the_tensors_that_require_a_gradient_get_one(needed: str) -> None:
    everything, teacher = random_joint(), random_joint(1)
    losses, ranges = evaluate(everything, teacher, KlForm())
    expected = torch.autograd.grad(
        (losses.rnnt_B + losses.nodes[0].value_B).sum(), getattr(everything, needed)
    )
    student = Joint(*(x.detach().requires_grad_(name == needed) for name, x in everything._asdict().items()))
    term = PowerKl(teacher, FIXED, KlForm(), valid_nodes(ranges), True)
    losses = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])
    (losses.rnnt_B + losses.nodes[0].value_B).sum().backward()
    torch.testing.assert_close(getattr(student, needed).grad, *expected)


def test_without_gradient_the_losses_are_the_same_and_nothing_is_kept() -> None:
    student, teacher = random_joint(), random_joint(1)
    expected, ranges = evaluate(student, teacher, KlForm())
    with torch.no_grad():
        losses, _ = evaluate(student, teacher, KlForm())
        alone = joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY)
    for found, other in zip(losses.nodes[0], expected.nodes[0], strict=True):
        torch.testing.assert_close(found, other.detach())
    torch.testing.assert_close(losses.rnnt_B, expected.rnnt_B.detach())
    torch.testing.assert_close(losses.occupation_BTK, expected.occupation_BTK)
    torch.testing.assert_close(alone.rnnt_B, expected.rnnt_B.detach())
    assert alone.occupation_BTK is None and losses.nodes[0].value_B.grad_fn is None


def test_backward_under_autocast_is_that_without() -> None:
    student, teacher = random_joint(dtype=torch.float32), random_joint(1, torch.float32)
    losses, _ = evaluate(student, teacher, KlForm())
    total = (losses.rnnt_B + losses.nodes[0].value_B).sum()
    expected = torch.autograd.grad(total, student, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(torch.autograd.grad(total, student), expected)
