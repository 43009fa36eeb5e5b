"""Triton kernels over lattice nodes: from logits to arc scores and to a divergence, with their gradients.

One program per node, with the node's whole row of logits in registers: every row is read once, and gradients
overwrite their input. Rows are computed in float32 whatever their own type.

The scores are those of `pruned_rnnt.arcs.node_log_probs`, the divergences those of
`kl.power_kl_with_gradient`, the exponents those of `power.node_exponents`.

Shapes: R nodes (rows), V classes.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdasr.losses.lattice.kl import KlForm
from kdasr.losses.lattice.power import MIN_EXPONENT, STEPS, PowerRule

_TYPES = (torch.float32, torch.bfloat16, torch.float16)

_SMALLEST = tl.constexpr(MIN_EXPONENT)

_STEPS = tl.constexpr(STEPS)

_PER_NODE = (
    "symbols_ptr",
    "px_ptr",
    "py_ptr",
    "normalizers_ptr",
    "px_grad_ptr",
    "py_grad_ptr",
    "weights_ptr",
    "exponents_ptr",
    "kl_ptr",
)
"""These may be parts of larger tensors; only the rows' alignment is worth a kernel of its own."""


@triton.jit(do_not_specialize_on_alignment=_PER_NODE)
def _scores_kernel(
    logits_ptr: tl.tensor,
    symbols_ptr: tl.tensor,
    px_ptr: tl.tensor,
    py_ptr: tl.tensor,
    normalizers_ptr: tl.tensor,
    BLANK: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Scores of one node."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    classes = tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + classes, mask=classes < V, other=float("-inf")).to(tl.float32)
    largest = tl.max(logits, 0)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    normalizer = largest + tl.log(tl.sum(tl.exp(logits - largest), 0))
    symbol = tl.load(logits_ptr + tl.load(symbols_ptr + row)).to(tl.float32)
    blank = tl.load(logits_ptr + BLANK).to(tl.float32)
    # The normalizer is -inf too where all logits are.
    tl.store(px_ptr + row, tl.where(symbol == float("-inf"), symbol, symbol - normalizer))
    tl.store(py_ptr + row, tl.where(blank == float("-inf"), blank, blank - normalizer))
    tl.store(normalizers_ptr + row, normalizer)


@triton.jit(do_not_specialize_on_alignment=_PER_NODE)
def _gradient_kernel(
    logits_ptr: tl.tensor,
    symbols_ptr: tl.tensor,
    normalizers_ptr: tl.tensor,
    px_grad_ptr: tl.tensor,
    py_grad_ptr: tl.tensor,
    BLANK: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Gradient of one node's logits, in their place."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    classes = tl.arange(0, BLOCK)
    px_grad = tl.load(px_grad_ptr + row).to(tl.float32)
    py_grad = tl.load(py_grad_ptr + row).to(tl.float32)
    # Padding has no gradient: nothing to read.
    num_read = tl.where((px_grad != 0) | (py_grad != 0), V, 0)
    logits = tl.load(logits_ptr + classes, mask=classes < num_read, other=float("-inf")).to(tl.float32)
    log_probs = logits - tl.load(normalizers_ptr + row)
    gradient = tl.where(logits == float("-inf"), 0.0, -tl.exp(log_probs) * (px_grad + py_grad))
    gradient += tl.where(classes == tl.load(symbols_ptr + row), px_grad, 0.0)
    gradient += tl.where(classes == BLANK, py_grad, 0.0)
    tl.store(logits_ptr + classes, gradient, mask=classes < V)


@triton.jit
def _shifted_row(row_ptr: tl.tensor, V: tl.constexpr, BLOCK: tl.constexpr) -> tl.tensor:
    """Logits with their maximum taken off.

    Finite numbers stand for -inf, so that products with a probability of 0 are 0, and what lies beyond V
    has no probability even beside a row of -inf.
    """
    classes = tl.arange(0, BLOCK)
    logits = tl.load(row_ptr + classes, mask=classes < V, other=0.0).to(tl.float32)
    logits = tl.where(logits == float("-inf"), -1e30, logits)
    logits = tl.where(classes < V, logits, -2e30)
    return logits - tl.max(logits, 0)


@triton.jit
def _add_three(
    a0: tl.tensor, a1: tl.tensor, a2: tl.tensor, b0: tl.tensor, b1: tl.tensor, b2: tl.tensor
) -> tl.tensor:
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def _entropy_exponent(shifted: tl.tensor, floor: tl.tensor) -> tl.tensor:
    """The exponent that raises the entropy of a row to the floor: `kdasr.losses.lattice.power._solve`."""
    weights = tl.exp(shifted)
    total = tl.sum(weights, 0)
    entropy = tl.log(total) - tl.sum(weights * shifted, 0) / total
    steps = tl.where(entropy < floor, _STEPS, 0)
    exponent = tl.where(entropy < floor, 0.5, 1.0)
    low, high = exponent * 0.0 + _SMALLEST, exponent * 0.0 + 1.0
    while steps > 0:
        weights = tl.exp(exponent * shifted)
        firsts = weights * shifted
        total, first, second = tl.reduce((weights, firsts, firsts * shifted), 0, _add_three)
        mean = first / total
        variance = second / total - mean * mean
        entropy = tl.maximum(tl.log(total) - exponent * mean, 1e-30)
        low = tl.where(entropy > floor, exponent, low)
        high = tl.where(entropy > floor, high, exponent)
        newton = exponent + tl.log(entropy / floor) * entropy / (exponent * variance)
        inside = (newton >= low) & (newton <= high)
        # Further steps would not move it any more.
        steps = tl.where(inside & (tl.abs(newton - exponent) < 1e-6 * exponent), 0, steps - 1)
        exponent = tl.where(inside, newton, 0.5 * (low + high))
    return exponent


@triton.jit(do_not_specialize_on_alignment=_PER_NODE)
def _kl_kernel(
    student_ptr: tl.tensor,
    teacher_ptr: tl.tensor,
    weights_ptr: tl.tensor,
    exponents_ptr: tl.tensor,
    kl_ptr: tl.tensor,
    constant: tl.tensor,
    RULE: tl.constexpr,
    BOTH_SIDES: tl.constexpr,
    DIRECTION: tl.constexpr,
    SQUARED: tl.constexpr,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Divergence of one node, and its gradient in the teacher's place."""
    row = tl.program_id(0).to(tl.int64)
    student_ptr += row * V
    teacher_ptr += row * V
    classes = tl.arange(0, BLOCK)
    weight = tl.load(weights_ptr + row).to(tl.float32)
    if weight == 0:
        tl.store(kl_ptr + row, 0.0)
        if RULE != "given":
            tl.store(exponents_ptr + row, 1.0)
        tl.store(teacher_ptr + classes, tl.zeros([BLOCK], tl.float32), mask=classes < V)
    else:
        teacher = _shifted_row(teacher_ptr, V, BLOCK)
        student = _shifted_row(student_ptr, V, BLOCK)
        if RULE == "given":
            exponent = tl.load(exponents_ptr + row).to(tl.float32)
        else:
            if RULE == "entropy":
                exponent = _entropy_exponent(teacher, constant)
            elif RULE == "confidence":
                exponent = constant + (1.0 - constant) * (1.0 - 1.0 / tl.sum(tl.exp(teacher), 0))
            else:
                exponent = constant
            tl.store(exponents_ptr + row, exponent)
        student_exponent = exponent if BOTH_SIDES else 1.0
        log_p = exponent * teacher
        log_p -= tl.log(tl.sum(tl.exp(log_p), 0))
        log_q = student_exponent * student
        log_q -= tl.log(tl.sum(tl.exp(log_q), 0))
        p, q = tl.exp(log_p), tl.exp(log_q)
        difference = log_p - log_q
        scale = 1.0 / (exponent * exponent) if SQUARED else 1.0
        if DIRECTION == "forward":
            kl = tl.sum(p * difference, 0)
            gradient = q - p
        elif DIRECTION == "reverse":
            kl = -tl.sum(q * difference, 0)
            gradient = -q * (difference + kl)
        else:
            kl = 0.5 * tl.sum((p - q) * difference, 0)
            gradient = 0.5 * (q - p - q * (difference - tl.sum(q * difference, 0)))
        tl.store(kl_ptr + row, kl * scale)
        gradient *= weight * scale * student_exponent
        tl.store(teacher_ptr + classes, gradient, mask=classes < V)


def _block(num_classes: int) -> dict[str, int]:
    """A whole row, spread over threads by 16 classes each."""
    block = triton.next_power_of_2(num_classes)
    return {"V": num_classes, "BLOCK": block, "num_warps": min(max(block // 512, 1), 32)}


def _check_rows(**rows: Tensor) -> None:
    """Refuse what the kernels would misread.

    Raises:
        ValueError: naming the argument and its type or layout.
    """
    for name, values in rows.items():
        if values.dtype not in _TYPES:
            raise ValueError(f"{name} {values.dtype}: expected one of {', '.join(map(str, _TYPES))}")
        if values.ndim != 2 or not values.is_contiguous():
            raise ValueError(f"{name} {tuple(values.shape)} {values.stride()}: expected contiguous (R, V)")


def node_scores(logits_RV: Tensor, symbols_R: Tensor, blank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each node's symbol and of blank, and the log of its softmax's denominator.

    Args:
        logits_RV: contiguous float32, bfloat16 or float16, unnormalized.
        symbols_R: int64, the symbol that each node would emit.
        blank: class of the blank.

    Returns:
        `(px_R, py_R, normalizers_R)`, float32.

    Raises:
        ValueError: logits of another type or layout.
    """
    _check_rows(logits_RV=logits_RV)
    num_rows, num_classes = logits_RV.shape
    px_R, py_R, normalizers_R = (logits_RV.new_empty(num_rows, dtype=torch.float32) for _ in range(3))
    with torch.cuda.device_of(logits_RV):
        _scores_kernel[(num_rows,)](
            logits_RV, symbols_R.contiguous(), px_R, py_R, normalizers_R, BLANK=blank, **_block(num_classes)
        )
    return px_R, py_R, normalizers_R


def node_gradient_(
    logits_RV: Tensor,
    symbols_R: Tensor,
    blank: int,
    normalizers_R: Tensor,
    px_grad_R: Tensor,
    py_grad_R: Tensor,
) -> Tensor:
    """Overwrite logits with the gradient that their scores have from `px_grad_R` and `py_grad_R`.

    Rows in which both are 0 are not read. Arguments else and errors as in `node_scores`.
    """
    _check_rows(logits_RV=logits_RV)
    num_rows, num_classes = logits_RV.shape
    with torch.cuda.device_of(logits_RV):
        _gradient_kernel[(num_rows,)](
            logits_RV,
            symbols_R.contiguous(),
            normalizers_R.contiguous(),
            px_grad_R.contiguous(),
            py_grad_R.contiguous(),
            BLANK=blank,
            **_block(num_classes),
        )
    return logits_RV


class KlRows(NamedTuple):
    """Divergence of each node, and the exponent that it was taken at."""

    kl_R: Tensor
    exponents_R: Tensor


def kl_rows_(
    student_RV: Tensor, teacher_RV: Tensor, weights_R: Tensor, rule: PowerRule, form: KlForm
) -> KlRows:
    """Divergence of each node between power-transformed distributions, with an exponent of its own.

    Args:
        student_RV: contiguous float32, bfloat16 or float16, unnormalized.
        teacher_RV: likewise. **Overwritten** with the gradient of `weights_R * kl_R` by the student's logits.
        weights_R: 0: the node is not read, has divergence 0, exponent 1 and gradient 0.
        rule: which exponent; its granularity is node.
        form: sides, direction and scale.

    Returns:
        Divergences without weights (times T^2 where the form says so) and exponents, float32.

    Raises:
        ValueError: logits of another type, layout or shape.
    """
    assert rule.granularity == "node"
    constant = rule.exponent
    if rule.rule == "entropy":
        constant = rule.floor(student_RV.shape[1])
    exponents_R = weights_R.new_empty(weights_R.shape, dtype=torch.float32)
    kl_R = _launch_kl(student_RV, teacher_RV, weights_R, exponents_R, form, rule.rule, constant)
    return KlRows(kl_R, exponents_R)


def kl_rows_given_(
    student_RV: Tensor, teacher_RV: Tensor, weights_R: Tensor, exponents_R: Tensor, form: KlForm
) -> Tensor:
    """The same with exponents that are given; returns the divergences."""
    return _launch_kl(student_RV, teacher_RV, weights_R, exponents_R.contiguous(), form, "given", 1.0)


def _launch_kl(
    student_RV: Tensor,
    teacher_RV: Tensor,
    weights_R: Tensor,
    exponents_R: Tensor,
    form: KlForm,
    rule: str,
    constant: float,
) -> Tensor:
    _check_rows(student_RV=student_RV, teacher_RV=teacher_RV)
    if student_RV.shape != teacher_RV.shape:
        raise ValueError(f"student {tuple(student_RV.shape)} and teacher {tuple(teacher_RV.shape)} differ")
    num_rows, num_classes = student_RV.shape
    kl_R = student_RV.new_empty((num_rows,), dtype=torch.float32)
    with torch.cuda.device_of(student_RV):
        _kl_kernel[(num_rows,)](
            student_RV,
            teacher_RV,
            weights_R.contiguous(),
            exponents_R,
            kl_R,
            float(constant),
            RULE=rule,
            BOTH_SIDES=form.sides == "both",
            DIRECTION=form.direction,
            SQUARED=form.temperature_squared,
            **_block(num_classes),
        )
    return kl_R
