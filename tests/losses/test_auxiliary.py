"""Distance and relations between hidden layers."""

# Shapes: B utterances, T frames, D width.

import math

import pytest
import torch
from torch import Tensor

from kdasr.losses.auxiliary import distance_loss, relation_loss

LENS_B = torch.tensor([5, 3, 0])


def layers(seed: int, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 5, width, generator=generator, dtype=torch.float64)


def test_distance_is_that_of_the_formula_frame_by_frame() -> None:
    student, teacher = layers(0), layers(1)
    found = distance_loss(student, teacher, LENS_B)
    for b, frames in enumerate(LENS_B.tolist()):
        values = []
        for h, z in zip(student[b, :frames].tolist(), teacher[b, :frames].tolist(), strict=True):
            dot, sizes = sum(map(float.__mul__, h, z)), math.hypot(*h) * math.hypot(*z)
            apart = sum(abs(x - y) for x, y in zip(h, z, strict=True)) / 8
            values.append(apart + math.log(1 + math.exp(-dot / sizes)))
        assert float(found[b]) == pytest.approx(sum(values) / max(frames, 1))
    least = distance_loss(teacher, teacher, LENS_B)
    torch.testing.assert_close(least[:2], torch.full((2,), math.log(1 + math.exp(-1)), dtype=torch.float64))


def test_relations_are_those_of_the_formula_head_by_head() -> None:
    student, teacher = layers(0, width=4), layers(1)
    found = relation_loss(student, teacher, LENS_B, num_heads=2)
    for b, frames in enumerate(LENS_B.tolist()):
        total = 0.0
        for head in range(2):
            p, q = (
                (part @ part.T / part.shape[1] ** 0.5).softmax(1)
                for part in (x[b, :frames].chunk(2, dim=1)[head] for x in (teacher, student))
            )
            total += float((p * (p / q).log()).sum())
        assert float(found[b]) == pytest.approx(total / (2 * max(frames, 1)))
    turned = layers(1) @ torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    assert relation_loss(turned, layers(1), LENS_B, 1).abs().max() < 1e-9, "a rotation keeps all relations"


@pytest.mark.parametrize("loss", [distance_loss, lambda *args: relation_loss(*args, 2)])
def test_padding_and_teacher_get_no_gradient(loss) -> None:
    student, teacher = layers(0).requires_grad_(), layers(1).requires_grad_()
    before = loss(student, teacher, LENS_B)
    before.sum().backward()
    assert teacher.grad is None and student.grad is not None
    assert not student.grad[1, 3:].any() and not student.grad[2].any() and student.grad[0].all()
    loud = student.detach().clone()
    loud[1, 3:], loud[2] = 1e6, -1e6
    torch.testing.assert_close(loss(loud, teacher, LENS_B), before.detach())


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        distance_loss(layers(0), layers(1, width=4), LENS_B)
    with pytest.raises(ValueError, match="width 8 is not a multiple of 3"):
        relation_loss(layers(0), layers(1), LENS_B, 3)
    with pytest.raises(ValueError, match="differ in frames"):
        relation_loss(layers(0)[:, 1:], layers(1), LENS_B, 2)
