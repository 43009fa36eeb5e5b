import pytest
import torch

from kdasr.losses.hidden import hidden_mse

LENS = torch.tensor([5, 2, 0])


def random_layers(seed: int, width: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(2, 3, 5, width, generator=generator, dtype=torch.float64))


def test_mean_over_valid_frames_and_dims_sum_over_layers() -> None:
    student, teacher = random_layers(0), random_layers(1)
    loss = hidden_mse(student, teacher, LENS, [1.0, 0.5])
    expected = [
        sum(
            weight * ((s[i, :n] - t[i, :n]) ** 2).mean()
            for s, t, weight in zip(student, teacher, [1.0, 0.5], strict=True)
        )
        for i, n in ((0, 5), (1, 2))
    ]
    torch.testing.assert_close(loss, torch.stack([*expected, torch.zeros((), dtype=torch.float64)]))


def test_zero_at_equality() -> None:
    layers = random_layers(0)
    assert not hidden_mse(layers, [x.clone() for x in layers], LENS, [1.0, 1.0]).any()


def test_padding_is_ignored() -> None:
    student, teacher = random_layers(0), random_layers(1)
    noisy_student, noisy_teacher = [x.clone() for x in student], [x.clone() for x in teacher]
    for layer in noisy_student:
        layer[1, 2:], layer[2] = 100.0, torch.nan
    for layer in noisy_teacher:
        layer[1, 2:], layer[2] = -3.0, 7.0
    for layer in noisy_student:
        layer.requires_grad_()
    loss = hidden_mse(noisy_student, noisy_teacher, LENS, [1.0, 1.0])
    torch.testing.assert_close(loss, hidden_mse(student, teacher, LENS, [1.0, 1.0]))
    loss.sum().backward()
    assert not noisy_student[0].grad[1, 2:].any() and not noisy_student[0].grad[2].any()


def test_gradient_by_finite_differences_and_only_for_the_student() -> None:
    student, teacher = random_layers(0), random_layers(1)
    inputs = [x.requires_grad_() for x in (*student, *teacher)]
    assert torch.autograd.gradcheck(lambda a, b: hidden_mse([a, b], teacher, LENS, [1.0, 2.0]), inputs[:2])
    hidden_mse(student, teacher, LENS, [1.0, 1.0]).sum().backward()
    assert [x.grad for x in teacher] == [None, None]


def test_half_precision_gives_float32() -> None:
    student, teacher = ([x.bfloat16() for x in random_layers(seed)] for seed in (0, 1))
    assert hidden_mse(student, teacher, LENS, [1.0, 1.0]).dtype == torch.float32


def test_what_does_not_pair_up_is_named() -> None:
    layers = random_layers(0)
    with pytest.raises(ValueError, match="2 student layers, 1 teacher"):
        hidden_mse(layers, layers[:1], LENS, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"\(3, 5, 4\).*\(3, 5, 6\)"):
        hidden_mse(layers, random_layers(1, width=6), LENS, [1.0, 1.0])
