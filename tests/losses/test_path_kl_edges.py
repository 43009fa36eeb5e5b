"""The divergence between paths where something is missing: padding, paths, classes, frames, arguments."""

import math

import pytest
import torch
from path_lattice import BOUNDARY, FULL, PRUNED, SYMBOLS, evaluate, random_joint

from kdasr.losses.lattice import blocks
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.path_kl import NORMALIZE, PathForm, PathKl
from kdasr.losses.lattice.teacher_band import teacher_band


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one not full."""
    monkeypatch.setitem(blocks.NODES_AT_ONCE, "cpu", 13)


def padded(joint: Joint, noise: float) -> Joint:
    am, lm = joint.am_BTD.detach().clone(), joint.lm_BSD.detach().clone()
    am[1, 3:], lm[1, 3:], lm[2, 1:] = torch.nan, noise, -noise
    return joint._replace(am_BTD=am.requires_grad_(), lm_BSD=lm.requires_grad_())


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_padding_does_not_matter(normalize: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    expected = evaluate(student, teacher, PathForm(normalize))
    noisy = padded(student, 5.0)
    losses = evaluate(noisy, padded(teacher, -3.0), PathForm(normalize))
    torch.testing.assert_close(losses.paths[0], expected.paths[0])
    ours, theirs = (
        torch.autograd.grad(x.paths[0].sum(), y) for x, y in ((losses, noisy), (expected, student))
    )
    assert not ours[0][1, 3:].any() and not ours[1][1, 3:].any() and not ours[1][2, 1:].any()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_utterances_without_a_path_count_nothing(normalize: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    beyond = torch.arange(2).expand(3, 4, 2)  # states 2 and 3 are never reached
    losses = evaluate(student, teacher, PathForm(normalize), beyond)
    assert losses.rnnt_B.isposinf().tolist() == [True, True, False]
    assert losses.paths[0][:2].tolist() == [0.0, 0.0]
    (losses.rnnt_B + losses.paths[0]).sum().backward()
    assert student.am_BTD.grad is not None
    assert not student.am_BTD.grad[:2].any() and student.am_BTD.grad[2].any()


def without_class(joint: Joint, index: int) -> Joint:
    bias = joint.bias_V.detach().clone()
    bias[index] = -torch.inf
    return joint._replace(bias_V=bias.requires_grad_())


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_teacher_that_cannot_say_the_transcript_teaches_nothing(normalize: str) -> None:
    """The student has paths there, the teacher has none: the first utterance's third piece is 4."""
    student, teacher = random_joint(), random_joint(1)
    losses = evaluate(student, without_class(teacher, 4), PathForm(normalize))
    assert losses.paths[0][0] == 0.0 and losses.paths[0][1] != 0.0
    (am_grad,) = torch.autograd.grad(losses.paths[0].sum(), student.am_BTD)
    assert not am_grad[0].any() and am_grad[1].any() and am_grad.isfinite().all()


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_student_that_cannot_follow_costs_inf_and_no_nan(normalize: str) -> None:
    student, teacher = without_class(random_joint(), 4), random_joint(1)
    losses = evaluate(student, teacher, PathForm(normalize))
    assert losses.paths[0][0] == torch.inf and losses.paths[0][1].isfinite()
    for grad in torch.autograd.grad(losses.paths[0].sum(), student):
        assert grad.isfinite().all()


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_class_that_neither_knows_matters_only_where_it_is_said(normalize: str) -> None:
    """4 is in the first transcript, and in the padding of the others."""
    student, teacher = random_joint(), random_joint(1)
    losses = evaluate(without_class(student, 4), without_class(teacher, 4), PathForm(normalize))
    assert losses.paths[0][0] == 0.0
    assert losses.paths[0][1:].isfinite().all() and losses.paths[0][1] != 0.0


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("which", ["teacher", "student"])
def test_nan_passes_through_to_the_losses_of_its_utterance(which: str, normalize: str) -> None:
    joints = {"student": random_joint(), "teacher": random_joint(1)}
    ill = joints[which].am_BTD.detach().clone()
    ill[1, 2, 0] = torch.nan
    joints[which] = joints[which]._replace(am_BTD=ill)
    with torch.no_grad():
        losses = evaluate(joints["student"], joints["teacher"], PathForm(normalize))
    assert losses.paths[0].isnan().tolist() == [False, True, False]
    assert losses.rnnt_B.isnan().tolist() == [False, which == "student", False]


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_without_gradient_the_value_is_the_same(normalize: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    expected = evaluate(student, teacher, PathForm(normalize), delay_penalty=0.2)
    with torch.no_grad():
        losses = evaluate(student, teacher, PathForm(normalize), delay_penalty=0.2)
    torch.testing.assert_close(losses.paths[0], expected.paths[0].detach())
    assert losses.occupation_BTK is None


@pytest.mark.parametrize("num_frames", [0, 4])
def test_utterances_without_frames(num_frames: int) -> None:
    boundary = torch.tensor([[0, 0, 3, 0], [0, 0, 2, 0], [0, 0, 0, 0]])
    student, teacher = (
        x._replace(am_BTD=x.am_BTD[:, :num_frames]) for x in (random_joint(), random_joint(1))
    )
    ranges = FULL[:, :num_frames]
    for normalize in NORMALIZE:
        path = PathKl(teacher_band(teacher, SYMBOLS, ranges, 0, boundary), PathForm(normalize))
        losses = joint_losses(student, SYMBOLS, ranges, 0, boundary, paths=[path])
        assert losses.paths[0].tolist() == [0.0] * 3
        losses.paths[0].sum().backward()


def test_half_precision_inputs_give_float32() -> None:
    student, teacher = random_joint(dtype=torch.float32), random_joint(1, torch.float32)
    expected = evaluate(student, teacher, ranges=PRUNED)
    half_student, half_teacher = (
        Joint(*(x.detach().bfloat16().requires_grad_() for x in joint[:2]), *joint[2:])
        for joint in (student, teacher)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = evaluate(half_student, half_teacher, ranges=PRUNED)
    assert losses.paths[0].dtype == torch.float32
    torch.testing.assert_close(losses.paths[0], expected.paths[0], rtol=0.1, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": "student"}, "normalize 'student': expected one of both, teacher, none"),
        ({"exponent": 0.0}, "exponent 0.0"),
        ({"exponent": math.inf}, "exponent inf"),
        ({"normalize": "none", "exponent": 0.5}, "exponent 0.5: expected 1"),
    ],
)
def test_impossible_forms_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathForm(**options)  # type: ignore[arg-type]


def test_a_teacher_on_another_band_is_named() -> None:
    path = PathKl(teacher_band(random_joint(1), SYMBOLS, FULL, 0, BOUNDARY), PathForm())
    with pytest.raises(ValueError, match=r"path \(3, 4, 4\): expected a teacher on ranges \(3, 4, 3\)"):
        joint_losses(random_joint(), SYMBOLS, PRUNED, 0, BOUNDARY, paths=[path])
