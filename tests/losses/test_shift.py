import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import JointLosses, joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.shift import shifted

LENS = BOUNDARY[:, 3]


def learn(student: Joint, teacher: Joint, shift: int) -> JointLosses:
    ranges = ranges_of(student)
    moved, inside = shifted(teacher, LENS, shift, 7)
    term = PowerKl(
        moved, PowerRule("fixed"), KlForm(), valid_nodes(ranges) & inside[:, :, None], by_occupation=True
    )
    return joint_losses(student, SYMBOLS, ranges, 0, BOUNDARY, nodes=[term])


def late_by(teacher: Joint, frames: int) -> Joint:
    """The teacher, each utterance heard `frames` later; noise where it has not begun, or is over."""
    noise_BTD = random_joint(seed=5).am_BTD.detach()
    am_BTD = noise_BTD.clone()
    for b, length in enumerate(LENS.tolist()):
        for t in range(max(frames, 0), min(length, length + frames)):
            am_BTD[b, t] = teacher.am_BTD[b, t - frames]
    return teacher._replace(am_BTD=am_BTD.detach().requires_grad_())


def detached(joint: Joint) -> Joint:
    return Joint(*(x.detach() for x in joint))


@pytest.mark.parametrize("shift", [-3, -1, 0, 2])
def test_a_student_late_by_the_shift_has_nothing_to_learn(shift: int) -> None:
    teacher = detached(random_joint())
    student = late_by(teacher, shift)
    losses = learn(student, teacher, shift)
    torch.testing.assert_close(losses.nodes[0].value_B, torch.zeros(3, dtype=torch.float64))
    (grad,) = torch.autograd.grad(losses.nodes[0].value_B.sum(), [student.am_BTD])
    torch.testing.assert_close(grad, torch.zeros_like(grad))
    for other in {-3, -1, 0, 2} - {shift}:
        assert (learn(student, teacher, other).nodes[0].value_B > 0.01).all(), other


def weights_of(shift: int, lens: Tensor = LENS) -> Tensor:
    ranges = ranges_of(random_joint())
    moved, inside = shifted(detached(random_joint(1)), lens, shift, 7)
    base = valid_nodes(ranges) & inside[:, :, None]
    return PowerKl(moved, PowerRule(), KlForm(), base, False).weigh(torch.ones(ranges.shape))


@pytest.mark.parametrize("shift", [-2, 0, 3])
def test_frames_without_a_target_weigh_nothing(shift: int) -> None:
    weights_BTK = weights_of(shift)
    torch.testing.assert_close(weights_BTK.sum((1, 2)), torch.ones(3))
    for b, length in enumerate(LENS.tolist()):
        with_target = {t for t in range(length) if 0 <= t - shift < length}
        assert {t for t in range(7) if weights_BTK[b, t].any()} == with_target


@pytest.mark.parametrize("shift", [6, -6])
def test_utterances_not_longer_than_the_shift_do_not_count(shift: int) -> None:
    weights_BTK = weights_of(shift)
    torch.testing.assert_close(weights_BTK.sum((1, 2)), torch.tensor([1.0, 0.0, 0.0]))
    student = random_joint()
    losses = learn(student, detached(random_joint(1)), shift)
    assert losses.nodes[0].value_B[0] > 0 and not losses.nodes[0].value_B[1:].any()
    (grad,) = torch.autograd.grad(losses.nodes[0].value_B.sum(), [student.am_BTD])
    assert grad[0].any() and not grad[1:].any()


def test_padding_of_the_teacher_does_not_matter() -> None:
    student, teacher = random_joint(), detached(random_joint(1))
    am_BTD = teacher.am_BTD.clone()
    am_BTD[1, 5:], am_BTD[2, 6:] = torch.nan, 7.0
    for shift in (-2, 2):
        expected = learn(student, teacher, shift)
        torch.testing.assert_close(
            learn(student, teacher._replace(am_BTD=am_BTD), shift).nodes[0].value_B, expected.nodes[0].value_B
        )


def test_every_frame_holds_something_of_its_utterance() -> None:
    teacher = random_joint(1)
    for shift, nearest in ((2, [0, 0, 0, 1, 2]), (-3, [3, 4, 4, 4, 4])):
        moved, _ = shifted(teacher, LENS, shift, 7)
        torch.testing.assert_close(moved.am_BTD[1, :5], teacher.am_BTD[1, nearest])
    empty, inside = shifted(teacher._replace(am_BTD=teacher.am_BTD[:, :0]), torch.zeros(3), 1, 0)
    assert empty.am_BTD.shape == (3, 0, 4) and inside.shape == (3, 0)
