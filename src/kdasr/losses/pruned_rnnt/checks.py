"""Checks of the transducer losses' arguments.

Shapes and names are always checked. Values (lengths, symbols, NaN) are checked where that does not make the
CPU wait for another device: for tensors on the CPU, and everywhere inside `check_values_everywhere`.

Shapes: B utterances, S symbols, T frames, V classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional

RNNT_TYPES = ("regular", "modified", "constrained")
REDUCTIONS = ("none", "mean", "sum")

_everywhere: ContextVar[bool] = ContextVar("check_values_everywhere", default=False)


@contextmanager
def check_values_everywhere() -> Iterator[None]:
    """Check values on every device: finds a bad batch, and makes the CPU wait for the device."""
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


def checks_values(values: Tensor) -> bool:
    """Whether the values of this tensor are to be looked at."""
    return values.device.type == "cpu" or _everywhere.get()


def check_names(rnnt_type: str, reduction: str, delay_penalty: float = 0.0) -> None:
    """Refuse names that the losses do not know, and a penalty that they would ignore.

    Raises:
        ValueError: naming the argument and its value.
    """
    if not delay_penalty >= 0.0:
        raise ValueError(f"delay_penalty {delay_penalty}: expected 0 or more nats per frame")
    if rnnt_type not in RNNT_TYPES:
        raise ValueError(f"rnnt_type '{rnnt_type}': expected one of {', '.join(RNNT_TYPES)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction '{reduction}': expected one of {', '.join(REDUCTIONS)}")


def check_symbols(
    symbols: Tensor, batch: int, num_classes: int, termination_symbol: int, num_states: int | None = None
) -> None:
    """Refuse symbols that do not fit the other arguments, padding included.

    Raises:
        ValueError: naming the shape, the type, or the first symbol that is no class.
    """
    if symbols.dtype not in (torch.int64, torch.int32) or symbols.ndim != 2:
        raise ValueError(f"symbols {tuple(symbols.shape)} {symbols.dtype}: expected (B, S) int64")
    if symbols.shape[0] != batch or (num_states is not None and symbols.shape[1] + 1 != num_states):
        expected = f"({batch}, {'S' if num_states is None else num_states - 1})"
        raise ValueError(f"symbols {tuple(symbols.shape)}: expected {expected}")
    if not 0 <= termination_symbol < num_classes:
        raise ValueError(f"termination_symbol {termination_symbol}: expected a class below {num_classes}")
    if checks_values(symbols):
        _refuse("symbols", symbols, (symbols < 0) | (symbols >= num_classes), f"a class below {num_classes}")


def check_boundary_shape(boundary: Tensor | None, batch: int) -> None:
    """Refuse a boundary of another shape or of another type than integers.

    Raises:
        ValueError: naming the shape or type that was given.
    """
    if boundary is None:
        return
    if tuple(boundary.shape) != (batch, 4):
        raise ValueError(f"boundary {tuple(boundary.shape)}: expected ({batch}, 4)")
    if boundary.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"boundary {boundary.dtype}: expected int64")


def check_boundary(
    boundary: Tensor | None, batch: int, num_symbols: int, num_frames: int, from_origin: bool = False
) -> None:
    """Refuse a boundary that does not fit the other arguments.

    Args:
        from_origin: utterances must begin at state 0 and frame 0, as a pruned band does.

    Raises:
        ValueError: naming the shape, the type, or the first utterance that ends beyond the tensors, before
            it begins, or elsewhere than at the origin.
    """
    check_boundary_shape(boundary, batch)
    if boundary is None or not checks_values(boundary):
        return
    begins, ends = boundary[:, :2], boundary[:, 2:]
    limits = torch.tensor([num_symbols, num_frames], device=boundary.device)
    bad_B = ((begins < 0) | (ends < begins) | (ends > limits)).any(1)
    if from_origin:
        bad_B |= (begins != 0).any(1)
    if bad_B.any():
        item, zero = int(bad_B.nonzero()[0]), " = 0" if from_origin else ""
        raise ValueError(
            f"boundary[{item}] is {boundary[item].tolist()}: expected [s_begin, t_begin, s_end, t_end] with "
            f"0 <= s_begin{zero} <= s_end <= {num_symbols} and 0 <= t_begin{zero} <= t_end <= {num_frames}"
        )


def check_ranges(ranges: Tensor, num_symbols: int) -> None:
    """Refuse windows of states that no lattice has.

    Raises:
        ValueError: naming the shape or type, or the first window that leaves the lattice, does not begin at
            state 0, is not consecutive or moves back.
    """
    if ranges.ndim != 3 or ranges.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ranges {tuple(ranges.shape)} {ranges.dtype}: expected (B, T, K) int64")
    if not checks_values(ranges) or ranges.numel() == 0:
        return
    _refuse("ranges", ranges, (ranges < 0) | (ranges > num_symbols), f"states up to {num_symbols}")
    gaps = functional.pad(ranges.diff(dim=2) != 1, (1, 0))
    _refuse("ranges", ranges, gaps, "consecutive states")
    returns = functional.pad(ranges.diff(dim=1) < 0, (0, 0, 1, 0))
    _refuse("ranges", ranges, returns, "windows that never move back")
    late = torch.zeros_like(ranges, dtype=torch.bool)
    late[:, 0, 0] = ranges[:, 0, 0] > 0
    _refuse("ranges", ranges, late, "state 0 in the first window")


def check_logits(logits: Tensor, px: Tensor, py: Tensor, boundary: Tensor | None) -> None:
    """Refuse NaN in a joiner's logits `(B, T, X, V)`, given the nodes' log-probabilities `(B, T, X)`.

    Raises:
        ValueError: naming the first node. The loss does not depend on padding frames, so they are not
            looked at, but NaN there are NaN in the gradient too.
    """
    if not checks_values(px):
        return
    is_nan = px.isnan() | py.isnan()
    if boundary is not None:
        frames = torch.arange(px.shape[1], device=px.device)
        is_nan &= (frames < boundary[:, 3:4].to(px.device))[:, :, None]
    if is_nan.any():
        place = is_nan.nonzero()[0].tolist()
        what = "NaN" if logits[tuple(place)].isnan().any() else "no finite maximum"
        raise ValueError(f"logits {tuple(logits.shape)}: {what} at logits{place}")


def _refuse(name: str, values: Tensor, bad: Tensor, expected: str) -> None:
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise ValueError(f"{name}{list(place)} is {int(values[place])}: expected {expected}")
