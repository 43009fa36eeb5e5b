"""The kernels over lattice nodes, interpreted on the CPU, against float64 in torch."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from triton_without_gpu import Interpreter, compile_kernel

from kdasr.losses.lattice.kl import DIRECTIONS, SIDES, KlForm, power_kl_with_gradient
from kdasr.losses.lattice.power import PowerRule, node_exponents

pytest.importorskip("triton")

MODULE = "kdasr.losses.lattice.triton_nodes"
FORMS = [KlForm(*form) for form in product(SIDES, DIRECTIONS, (True, False))]
RULES = [
    PowerRule("fixed", exponent=0.6),
    PowerRule("confidence", exponent=0.3),
    PowerRule("entropy", entropy_floor=0.5),
    PowerRule("entropy", entropy_floor=50.0),
]


def random_rows(num_rows: int, num_classes: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn((num_rows, num_classes), generator=generator) - 4


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    """Relative to the largest value, if that is not very small."""
    scale = max(expected.abs().max().item(), 0.1)
    torch.testing.assert_close(actual.double(), expected.double(), rtol=tolerance, atol=tolerance * scale)


def arc_scores(logits: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    log_probs = logits.log_softmax(-1)
    return log_probs.gather(1, symbols[:, None])[:, 0], log_probs[:, blank]


@pytest.mark.parametrize(("num_classes", "blank"), [(13, 0), (32, 31), (5, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scores_and_their_gradient(
    interpreted: Interpreter, num_classes: int, blank: int, dtype: torch.dtype
) -> None:
    logits = random_rows(7, num_classes).to(dtype)
    symbols = torch.arange(7) % num_classes
    symbols[3] = blank
    px_grad, py_grad = random_rows(2, 7, seed=1)
    px_grad[4], py_grad[5] = 0.0, 0.0
    exact = logits.double().requires_grad_()
    expected = arc_scores(exact, symbols, blank)
    torch.autograd.backward(expected, [px_grad.double(), py_grad.double()])
    (px, py, normalizers), _ = interpreted(f"{MODULE}.node_scores", logits, symbols, blank)
    assert px.dtype == py.dtype == normalizers.dtype == torch.float32
    assert_close(px, expected[0].detach())
    assert_close(py, expected[1].detach())
    assert_close(normalizers, exact.detach().logsumexp(-1))
    gradient, (overwritten, *_) = interpreted(
        f"{MODULE}.node_gradient_", logits, symbols, blank, normalizers, px_grad, py_grad
    )
    assert exact.grad is not None
    assert_close(gradient, exact.grad, 2e-6 if dtype == torch.float32 else 5e-3)
    assert gradient.dtype == dtype and torch.equal(gradient, overwritten)


def test_classes_without_probability(interpreted: Interpreter) -> None:
    logits = random_rows(3, 9)
    symbols = torch.tensor([2, 4, 4])
    logits[0, 5] = logits[1, 4] = -math.inf
    logits[2] = -math.inf
    (px, py, normalizers), _ = interpreted(f"{MODULE}.node_scores", logits, symbols, 0)
    expected = arc_scores(logits[:2].double(), symbols[:2], 0)
    assert_close(px[:2], expected[0])
    assert_close(py[:2], expected[1])
    assert px[1] == px[2] == py[2] == normalizers[2] == -math.inf
    ones = torch.ones(3)
    gradient, _ = interpreted(f"{MODULE}.node_gradient_", logits, symbols, 0, normalizers, ones, ones)
    assert gradient.isfinite().all() and gradient[0, 5] == 0


def test_padding_is_not_read(interpreted: Interpreter) -> None:
    logits = random_rows(2, 9)
    logits[1] = math.nan
    symbols, grads = torch.tensor([2, 3]), torch.tensor([1.0, 0.0])
    (_, _, normalizers), _ = interpreted(f"{MODULE}.node_scores", logits, symbols, 0)
    assert normalizers[1].isnan()
    gradient, _ = interpreted(f"{MODULE}.node_gradient_", logits, symbols, 0, normalizers, grads, grads)
    assert (gradient[1] == 0).all() and gradient[0].isfinite().all() and gradient[0, 2] > 0


def random_pair(num_classes: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher logits and weights; the teacher goes from flat to certain."""
    student = random_rows(8, num_classes, seed=2, scale=2.0)
    teacher = random_rows(8, num_classes, seed=3, scale=1.0) * torch.linspace(0.1, 12, 8)[:, None]
    weights = 0.1 + torch.rand(8, generator=torch.Generator().manual_seed(4))
    return student, teacher, weights


def expected_kl(
    student: Tensor, teacher: Tensor, weights: Tensor, exponents: Tensor, form: KlForm
) -> tuple[Tensor, Tensor]:
    values, gradient = power_kl_with_gradient(
        student.double(), teacher.double().clone(), exponents.double(), form
    )
    return values, gradient * weights[:, None]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_divergence_at_given_exponents(interpreted: Interpreter, form: KlForm) -> None:
    student, teacher, weights = random_pair()
    exponents = 0.2 + 0.8 * torch.rand(8, generator=torch.Generator().manual_seed(5))
    values, (_, gradient, *_) = interpreted(
        f"{MODULE}.kl_rows_given_", student, teacher, weights, exponents, form
    )
    expected = expected_kl(student, teacher, weights, exponents, form)
    assert_close(values, expected[0])
    assert_close(gradient, expected[1])


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_exponents_by_rule(interpreted: Interpreter, rule: PowerRule, dtype: torch.dtype) -> None:
    student, teacher, weights = random_pair()
    student, teacher = student.to(dtype), teacher.to(dtype)
    rows, (_, gradient, *_) = interpreted(f"{MODULE}.kl_rows_", student, teacher, weights, rule, KlForm())
    exponents = node_exponents(teacher.double().log_softmax(-1), rule)
    expected = expected_kl(student, teacher, weights, exponents, KlForm())
    assert_close(rows.exponents_R, exponents, 1e-5)
    assert_close(rows.kl_R, expected[0], 1e-5)
    assert_close(gradient, expected[1], 1e-5 if dtype == torch.float32 else 5e-3)
    if rule.entropy_floor == 0.5 and rule.rule == "entropy":
        assert (exponents == 1).any() and (exponents < 0.5).any()


def test_entropy_of_near_ties_and_near_certainty(interpreted: Interpreter) -> None:
    teacher = torch.zeros(3, 40)
    teacher[0, 0] = 30.0
    teacher[1, :2] = 60.0
    teacher[2, 0] = 1000.0
    rule = PowerRule("entropy", entropy_floor=1.0)
    rows, _ = interpreted(
        f"{MODULE}.kl_rows_", torch.zeros(3, 40), teacher.clone(), torch.ones(3), rule, KlForm()
    )
    expected = node_exponents(teacher.double().log_softmax(-1), rule)
    torch.testing.assert_close(rows.exponents_R.double(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rule", RULES[:3], ids=str)
def test_nodes_without_weight_are_not_read(interpreted: Interpreter, rule: PowerRule) -> None:
    student, teacher, weights = random_pair()
    weights[2] = 0.0
    student[2] = teacher[2] = math.nan
    rows, (_, gradient, *_) = interpreted(f"{MODULE}.kl_rows_", student, teacher, weights, rule, KlForm())
    assert rows.kl_R[2] == 0 and rows.exponents_R[2] == 1 and (gradient[2] == 0).all()
    assert rows.kl_R.isfinite().all() and gradient.isfinite().all() and (rows.kl_R[3:] > 0).all()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rule", RULES[1:3], ids=str)
def test_a_class_that_neither_side_allows(interpreted: Interpreter, rule: PowerRule, direction: str) -> None:
    student, teacher, weights = random_pair(9)
    form = KlForm(direction=direction)
    without, (_, gradient, *_) = interpreted(f"{MODULE}.kl_rows_", student, teacher, weights, rule, form)
    impossible = torch.full((8, 1), -math.inf)
    more = [torch.cat((x[:, :4], impossible, x[:, 4:]), dim=1) for x in (student, teacher)]
    rows, (_, more_gradient, *_) = interpreted(f"{MODULE}.kl_rows_", *more, weights, rule, form)
    assert_close(rows.kl_R, without.kl_R)
    assert_close(rows.exponents_R, without.exponents_R)
    assert (more_gradient[:, 4] == 0).all()
    assert_close(more_gradient[:, [0, 1, 2, 3, 5, 6, 7, 8, 9]], gradient)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_class_that_one_side_allows_gives_no_nan(interpreted: Interpreter, direction: str) -> None:
    student, teacher, weights = random_pair()
    student[0, 3] = teacher[1, 3] = -math.inf
    teacher[2] = -math.inf
    teacher[3] = 0.0  # as good as none at all
    student[3] = student[2]
    form = KlForm(direction=direction)
    rows, (_, gradient, *_) = interpreted(f"{MODULE}.kl_rows_", student, teacher, weights, RULES[2], form)
    assert not rows.kl_R.isnan().any() and gradient.isfinite().all()
    assert_close(rows.kl_R[2], rows.kl_R[3])


def test_what_the_kernels_would_misread_is_refused(interpreted: Interpreter) -> None:
    rows = random_rows(4, 6)
    symbols = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"torch\.float64"):
        interpreted(f"{MODULE}.node_scores", rows.double(), symbols, 0)
    with pytest.raises(ValueError, match=r"contiguous"):
        interpreted(f"{MODULE}.node_scores", random_rows(6, 4).t(), symbols, 0)
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(4, 5\)"):
        interpreted(f"{MODULE}.kl_rows_", rows, random_rows(4, 5), torch.ones(4), RULES[0], KlForm())


@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize(
    ("logits", "num_classes", "rules"),
    [
        ("*fp32", 500, [("entropy", "forward"), ("confidence", "reverse")]),
        ("*bf16", 5000, [("fixed", "symmetric"), ("given", "forward")]),
        ("*fp32", 3, [("entropy", "forward")]),
    ],
)
def test_compiles_for_a_gpu(logits: str, num_classes: int, rules: list[tuple[str, str]]) -> None:
    from kdasr.losses.lattice import triton_nodes

    block = triton_nodes._block(num_classes)
    num_warps = block.pop("num_warps")
    types = dict.fromkeys(triton_nodes._PER_NODE, "*fp32") | {"symbols_ptr": "*i64", "constant": "fp32"}
    types |= dict.fromkeys(("logits_ptr", "student_ptr", "teacher_ptr"), logits)
    for kernel in (triton_nodes._scores_kernel, triton_nodes._gradient_kernel):
        assert ".entry" in compile_kernel(kernel, types, {"BLANK": 0, **block}, num_warps)
    for rule, direction in rules:
        constants = {"RULE": rule, "DIRECTION": direction, **block}
        constants |= dict.fromkeys(("BOTH_SIDES", "SQUARED"), rule != "fixed")
        assert ".entry" in compile_kernel(triton_nodes._kl_kernel, types, constants, num_warps)
