from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.kl import DIRECTIONS, SIDES, KlForm, power_kl

FORMS = [KlForm(*form) for form in product(SIDES, DIRECTIONS, (True, False))]


def random_nodes(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Student and teacher logits, weights with padding, exponents."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 2, 4, 3, 6, generator=generator, dtype=dtype)
    weights = torch.rand(2, 4, 3, generator=generator, dtype=dtype)
    weights[1, 2:] = 0.0
    exponents = 0.2 + 0.8 * torch.rand(2, 4, 3, generator=generator, dtype=dtype)
    return student, teacher, weights, exponents


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_zero_at_equality_and_only_there(form: KlForm) -> None:
    student, teacher, weights, exponents = random_nodes()
    equal = exponents.unsqueeze(-1) * teacher if form.sides == "target" else teacher + 5.0
    torch.testing.assert_close(
        power_kl(equal, teacher, weights, exponents, form), torch.zeros(2, dtype=torch.float64)
    )
    assert (power_kl(student, teacher, weights, exponents, form) > 0.01).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradient_by_finite_differences(form: KlForm) -> None:
    student, teacher, weights, exponents = random_nodes()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: power_kl(x, teacher, weights, exponents, form), student)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_fixed_exponent_is_a_temperature(temperature: float) -> None:
    student, teacher, weights, _ = random_nodes()
    exponents = torch.full_like(weights, 1 / temperature)
    nodes = functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
    ).sum(-1)
    expected = (weights * nodes).sum((1, 2)) * temperature**2
    torch.testing.assert_close(power_kl(student, teacher, weights, exponents, KlForm()), expected)


def test_directions_swap_the_sides_and_symmetric_is_their_mean() -> None:
    student, teacher, weights, exponents = random_nodes()
    forward, reverse, symmetric = (
        power_kl(student, teacher, weights, exponents, KlForm(direction=direction))
        for direction in DIRECTIONS
    )
    torch.testing.assert_close(reverse, power_kl(teacher, student, weights, exponents, KlForm()))
    torch.testing.assert_close(symmetric, 0.5 * (forward + reverse))
    assert not torch.allclose(forward, reverse)


def gradient_norm(exponent: float, form: KlForm) -> Tensor:
    student, teacher, weights, _ = random_nodes()
    student.requires_grad_()
    power_kl(student, teacher, weights, torch.full_like(weights, exponent), form).sum().backward()
    assert student.grad is not None
    return student.grad.norm()


def test_t_squared_keeps_the_gradients_scale() -> None:
    """At high temperatures the gradient is (student - teacher) / V, whatever the temperature."""
    torch.testing.assert_close(
        gradient_norm(0.01, KlForm()), gradient_norm(0.05, KlForm()), rtol=0.05, atol=0
    )
    plain = KlForm(temperature_squared=False)
    assert gradient_norm(0.01, plain) < 0.1 * gradient_norm(0.05, plain)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_padding_is_ignored_on_both_sides(form: KlForm) -> None:
    student, teacher, weights, exponents = random_nodes()
    student.requires_grad_()
    expected = power_kl(student, teacher, weights, exponents, form)
    (expected_grad,) = torch.autograd.grad(expected.sum(), student)
    noisy_student, noisy_teacher = student.detach().clone(), teacher.clone()
    noisy_student[1, 2:] = 50 * torch.randn(2, 3, 6, dtype=torch.float64)
    noisy_teacher[1, 2:] = -7.0
    noisy_student.requires_grad_()
    loss = power_kl(noisy_student, noisy_teacher, weights, exponents, form)
    (grad,) = torch.autograd.grad(loss.sum(), noisy_student)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grad, expected_grad)


def test_autocast_gives_float32() -> None:
    student, teacher, weights, exponents = random_nodes(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = power_kl(student.bfloat16(), teacher.bfloat16(), weights, exponents, KlForm())
    assert loss.dtype == torch.float32
    exact = power_kl(student, teacher, weights, exponents, KlForm())
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.01)


def test_no_gradient_reaches_the_teacher_or_the_weights() -> None:
    values = [x.requires_grad_() for x in random_nodes()]
    power_kl(*values, KlForm()).sum().backward()
    assert values[0].grad is not None
    assert [x.grad for x in values[1:]] == [None] * 3


def test_wrong_names_and_shapes_are_named() -> None:
    student, teacher, weights, exponents = random_nodes()
    with pytest.raises(ValueError, match=r"\(2, 4, 3, 6\).*\(2, 4, 3, 5\)"):
        power_kl(student, teacher[..., :5], weights, exponents, KlForm())
    with pytest.raises(ValueError, match="'left'"):
        KlForm(sides="left")
    with pytest.raises(ValueError, match="'up'"):
        KlForm(direction="up")
