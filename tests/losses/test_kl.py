from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.lattice.collapsed import CollapsedKl
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.kl import (
    DIRECTIONS,
    SIDES,
    KlForm,
    NextSymbols,
    PowerKl,
    power_kl_with_gradient,
)
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.symbol_smoothing import SymbolKl

FORMS = [KlForm(*form) for form in product(SIDES, DIRECTIONS, (True, False))]


def random_nodes(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits, exponents."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 2 * torch.randn(2, 12, 6, generator=generator, dtype=torch.float64)
    return student, teacher, 0.2 + 0.8 * torch.rand(12, generator=generator, dtype=torch.float64)


def values(student: Tensor, teacher: Tensor, exponents: Tensor, form: KlForm) -> Tensor:
    return power_kl_with_gradient(student, teacher, exponents, form)[0]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_zero_at_equality_and_only_there(form: KlForm) -> None:
    student, teacher, exponents = random_nodes()
    equal = exponents.unsqueeze(-1) * teacher if form.sides == "target" else teacher + 5.0
    value_N, gradient_NV = power_kl_with_gradient(equal, teacher, exponents, form)
    torch.testing.assert_close(value_N, torch.zeros_like(value_N))
    torch.testing.assert_close(gradient_NV, torch.zeros_like(gradient_NV))
    assert (values(student, teacher, exponents, form) > 0.01).all()


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradient_is_the_values_slope(form: KlForm) -> None:
    student, teacher, exponents = random_nodes()
    _, gradient_NV = power_kl_with_gradient(student, teacher, exponents, form)
    slopes_NV = torch.empty_like(student)
    for v in range(student.shape[1]):
        step = torch.zeros_like(student)
        step[:, v] = 1e-5
        ahead, behind = (values(student + sign * step, teacher, exponents, form) for sign in (1, -1))
        slopes_NV[:, v] = (ahead - behind) / 2e-5
    torch.testing.assert_close(gradient_NV, slopes_NV, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_a_fixed_exponent_is_a_temperature(temperature: float) -> None:
    student, teacher, exponents = random_nodes()
    expected = functional.kl_div(
        (student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1), reduction="none"
    ).sum(-1)
    ours = values(student, teacher, torch.full_like(exponents, 1 / temperature), KlForm())
    torch.testing.assert_close(ours, expected * temperature**2)


def test_directions_swap_the_sides_and_symmetric_is_their_mean() -> None:
    student, teacher, exponents = random_nodes()
    forward, reverse, symmetric = (
        values(student, teacher, exponents, KlForm(direction=direction)) for direction in DIRECTIONS
    )
    torch.testing.assert_close(reverse, values(teacher, student, exponents, KlForm()))
    torch.testing.assert_close(symmetric, 0.5 * (forward + reverse))
    assert not torch.allclose(forward, reverse)


def gradient_norm(exponent: float, form: KlForm) -> Tensor:
    student, teacher, exponents = random_nodes()
    return power_kl_with_gradient(student, teacher, torch.full_like(exponents, exponent), form)[1].norm()


def test_t_squared_keeps_the_gradients_scale() -> None:
    """At high temperatures the gradient is (student - teacher) / V, whatever the temperature."""
    torch.testing.assert_close(
        gradient_norm(0.01, KlForm()), gradient_norm(0.05, KlForm()), rtol=0.05, atol=0
    )
    plain = KlForm(temperature_squared=False)
    assert gradient_norm(0.01, plain) < 0.1 * gradient_norm(0.05, plain)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_class_that_neither_side_allows_counts_nothing(direction: str) -> None:
    student, teacher, exponents = random_nodes()
    form = KlForm(direction=direction)
    expected_N, expected_NV = power_kl_with_gradient(student[:, 1:], teacher[:, 1:], exponents, form)
    student[:, 0], teacher[:, 0] = -torch.inf, -torch.inf
    value_N, gradient_NV = power_kl_with_gradient(student, teacher, exponents, form)
    torch.testing.assert_close(value_N, expected_N)
    torch.testing.assert_close(gradient_NV[:, 1:], expected_NV)
    assert not gradient_NV[:, 0].any()


@pytest.mark.parametrize("by_occupation", [True, False])
def test_weights_are_a_mean_over_the_nodes_of_an_utterance(by_occupation: bool) -> None:
    valid = torch.ones(3, 4, 2, dtype=torch.bool)
    valid[1, 2:] = False
    valid[2] = False
    teacher = Joint(*(torch.zeros(shape) for shape in ((3, 4, 2), (3, 5, 2), (6, 2), (6,))))
    term = PowerKl(teacher, PowerRule(), KlForm(), valid, by_occupation)
    occupation = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0))
    weights = term.weigh(occupation)
    torch.testing.assert_close(weights.sum((1, 2)), torch.tensor([1.0, 1.0, 0.0]))
    assert not weights[~valid].any()
    expected = occupation[0] / occupation[0].sum() if by_occupation else torch.full((4, 2), 1 / 8)
    torch.testing.assert_close(weights[0], expected)


def test_nothing_to_evaluate_is_harmless() -> None:
    teacher = Joint(*(torch.zeros(shape) for shape in ((1, 4, 2), (1, 5, 2), (6, 2), (6,))))
    none = torch.zeros(0, dtype=torch.int64)
    for granularity in ("node", "utterance"):
        rule = PowerRule(granularity=granularity)
        term = PowerKl(teacher, rule, KlForm(), torch.zeros(1, 4, 2, dtype=torch.bool), True)
        nodes = Nodes(none, none, none, torch.zeros(0))
        term.begin(nodes)
        assert term.evaluate(torch.zeros(0, 6), nodes, True).gradient_NV.shape == (0, 6)


def test_wrong_names_are_named() -> None:
    with pytest.raises(ValueError, match="'left'"):
        KlForm(sides="left")
    with pytest.raises(ValueError, match="'up'"):
        KlForm(direction="up")


@pytest.mark.parametrize("kind", ["full", "collapsed", "symbols"])
def test_nodes_where_the_teacher_is_wrong_may_be_left_out(kind: str) -> None:
    """Blank 0; the teacher's best class is blank, the next symbol, another one, and a symbol at the end."""
    teacher = torch.tensor([[5.0, 0, 1, 2], [0, 5.0, 1, 2], [0, 1, 5.0, 2], [0, 1, 5.0, 2]]).double()
    student = torch.randn(4, 4, generator=torch.Generator().manual_seed(0)).double()
    places = torch.arange(4)
    nodes = Nodes(places, places, places, torch.full((4,), 0.5).double())
    symbols, rule = NextSymbols(torch.tensor([1, 1, 1, 0]), 0), PowerRule("fixed", exponent=0.6)

    class Teacher:
        def logits_of(self, frames_N: Tensor, _: Tensor) -> Tensor:
            return teacher[frames_N]

    def evaluated(*, drop: bool) -> NodeValues:
        trusted, given = symbols if drop else None, (Teacher(), rule, KlForm(), torch.zeros(4, 1, 1), False)
        if kind == "collapsed":
            term: PowerKl = CollapsedKl(*given, symbols, all_nodes=not drop)  # type: ignore[arg-type]
        elif kind == "symbols":
            term = SymbolKl(*given, 0, trusted)  # type: ignore[arg-type]
        else:
            term = PowerKl(*given, trusted)  # type: ignore[arg-type]
        return term.evaluate(student, nodes, True)

    kept, dropped, right = evaluated(drop=False), evaluated(drop=True), torch.tensor([1.0, 1, 0, 0]).double()
    assert kept.gradient_NV is not None and dropped.gradient_NV is not None and (kept.value_N > 0).all()
    torch.testing.assert_close(dropped.value_N, kept.value_N * right)
    torch.testing.assert_close(dropped.gradient_NV, kept.gradient_NV * right[:, None])
