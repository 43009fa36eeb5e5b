"""The transducer's forward recursion and its occupation counts, one anti-diagonal at a time.

A regular transducer arc moves along one axis: a symbol from `(s, t)` to `(s + 1, t)`, a blank to
`(s, t + 1)`. Indexed by `n = s + t`, both arcs go from column `n` to column `n + 1`, and the lattice
becomes that of the modified transducer, where a symbol also takes a frame. So there is one core, which
advances all states of all utterances by one column, and two layouts: column `s + t` or column `t`.

The gradient of the total with respect to an arc's score is the probability that a path uses the arc (its
occupation). It comes from a backward sweep with the local probabilities of the arcs into each state, and is
computed in the forward pass (the idea of k2's `mutual_information.h`, Kuang et al. 2022, arXiv 2206.13236).

Shapes: B utterances, S symbols, T frames, N columns, K states of a pruned band; suffix 2: the two kinds
of arcs, symbols first. Scores are log-probabilities.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import check_boundary


class Columns(NamedTuple):
    """Arc scores in column order."""

    arcs_N2BS: Tensor
    """`[n, 0, b, s]`: the symbol arc that arrives in state s; `[n, 1, b, s]`: the blank arc that leaves it;
    both from column n to n + 1. The last dimension is S + 1 wide; -inf: no such arc."""
    ends_B: Tensor
    """Column of each utterance's last state."""
    end_states_B: Tensor
    """The last state: its number of symbols."""


def advance(columns: Columns) -> Tensor:
    """Totals `(N + 1, B, S + 2)`; element 0 of the last dimension is a pad before state 0."""
    arcs = columns.arcs_N2BS
    num_columns, _, batch, num_states = arcs.shape
    totals = arcs.new_full((num_columns + 1, batch, num_states + 1), -torch.inf)
    totals[0, :, 1] = 0.0
    # Two overlapping views of a column: the states before (sources of symbols) and the states themselves.
    strides = totals.stride()
    sources = totals.as_strided((num_columns, 2, batch, num_states), (strides[0], 1, strides[1], 1))
    scratch = arcs.new_empty((2, batch, num_states))
    symbol, blank = scratch.unbind(0)
    targets = totals[1:, :, 1:].unbind(0)
    for source, arc, target in zip(sources.unbind(0), arcs.unbind(0), targets, strict=True):
        torch.add(source, arc, out=scratch)
        torch.logaddexp(symbol, blank, out=target)
    return totals


def end_totals(totals: Tensor, columns: Columns) -> Tensor:
    """Total log-probability of each utterance, `(B,)`."""
    utterances = torch.arange(totals.shape[1], device=totals.device)
    return totals[columns.ends_B, utterances, columns.end_states_B + 1]


def occupy(totals: Tensor, columns: Columns) -> Tensor:
    """Occupation of every arc, in the layout of `Columns.arcs_N2BS`; zero where nothing reaches the end."""
    num_columns, _, batch, num_states = columns.arcs_N2BS.shape
    strides = totals.stride()
    sources = totals.as_strided((num_columns, 2, batch, num_states), (strides[0], 1, strides[1], 1))
    occupation = columns.arcs_N2BS + sources
    # The two arcs into a state, as local probabilities: logistic, so that they sum to exactly 1 and rounding
    # of the totals neither makes nor loses probability along the way. The sweep below turns them into
    # occupations in place. -inf on both sides: nothing reaches the state.
    odds = occupation[:, 1] - occupation[:, 0]
    torch.sigmoid(odds, out=occupation[:, 1])
    torch.sigmoid(odds.neg_(), out=occupation[:, 0])
    occupation.nan_to_num_(nan=0.0)
    visits = torch.zeros_like(totals)
    utterances = torch.arange(batch, device=totals.device)
    visits[columns.ends_B, utterances, columns.end_states_B + 1] = 1.0
    before = visits[:-1, :, :-1].unbind(0)
    states = visits[:, :, 1:].unbind(0)
    arcs = occupation.unbind(0)
    symbols, blanks = occupation[:, 0].unbind(0), occupation[:, 1].unbind(0)
    for n in range(num_columns - 1, -1, -1):
        arcs[n].mul_(states[n + 1])
        states[n].add_(blanks[n])
        before[n].add_(symbols[n])
    return occupation


def _default_boundary(batch: int, num_symbols: int, num_frames: int, device: torch.device) -> Tensor:
    return torch.tensor([[0, 0, num_symbols, num_frames]], device=device).expand(batch, 4)


def _from_origin(px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    """Move each utterance's first state to (0, 0). What slides in at the end is never reached."""

    def moved(scores: Tensor) -> Tensor:
        num_rows, num_cols = scores.shape[1:]
        rows = torch.arange(num_rows, device=scores.device) + boundary[:, 0:1]
        cols = torch.arange(num_cols, device=scores.device) + boundary[:, 1:2]
        utterances = torch.arange(len(scores), device=scores.device)[:, None, None]
        return scores[utterances, (rows % max(num_rows, 1))[:, :, None], (cols % num_cols)[:, None, :]]

    return moved(px), moved(py)


def _to_columns(px: Tensor, py: Tensor, boundary: Tensor) -> Columns:
    """Lay out the full lattice; shapes as in `mutual_information_recursion`."""
    batch, num_states, num_frames = py.shape
    regular = px.shape[2] == num_frames + 1
    num_columns = num_frames + (num_states - 1 if regular else 0)
    arcs = px.new_full((num_columns, 2, batch, num_states), -torch.inf)
    symbols, blanks = _lattice_views(arcs, px.shape[2], num_frames, regular)
    symbols.copy_(px)
    blanks.copy_(py)
    end_states = boundary[:, 2] - boundary[:, 0]
    ends = boundary[:, 3] - boundary[:, 1] + (end_states if regular else 0)
    return Columns(arcs, ends, end_states)


def _lattice_views(arcs: Tensor, symbol_frames: int, num_frames: int, regular: bool) -> tuple[Tensor, Tensor]:
    """The symbol arcs as `(B, S, symbol_frames)` and the blank arcs as `(B, S + 1, T)`, without a copy."""
    _, _, batch, num_states = arcs.shape
    column, kind, utterance, state = arcs.stride()
    strides = (utterance, state + (column if regular else 0), column)
    offset = arcs.storage_offset()
    symbols = arcs.as_strided((batch, num_states - 1, symbol_frames), strides, offset + state)
    blanks = arcs.as_strided((batch, num_states, num_frames), strides, offset + kind)
    return symbols, blanks


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, px: Tensor, py: Tensor, boundary: Tensor, with_grad: bool) -> Any:
        """Totals `(B,)` and, when asked, the two occupations (else empty tensors)."""
        columns = _to_columns(px, py, boundary)
        totals = advance(columns)
        scores = end_totals(totals, columns)
        if not with_grad:
            return scores, px.new_empty(0), py.new_empty(0)
        regular = px.shape[2] == py.shape[2] + 1
        symbols, blanks = _lattice_views(occupy(totals, columns), px.shape[2], py.shape[2], regular)
        px_grad, py_grad = symbols.contiguous(), blanks.contiguous()
        ctx.save_for_backward(px_grad, py_grad)
        ctx.mark_non_differentiable(px_grad, py_grad)
        return scores, px_grad, py_grad

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor, *_: Any) -> Any:
        px_grad, py_grad = ctx.saved_tensors
        scale = grad_B[:, None, None]
        return px_grad * scale, py_grad * scale, None, None


def mutual_information_recursion(
    px: Tensor, py: Tensor, boundary: Tensor | None = None, return_grad: bool = False
) -> Any:
    """Total log-probability of all paths through each utterance's lattice.

    Args:
        px: scores of symbol arcs, `(B, S, T + 1)` (regular) or `(B, S, T)` (modified: a symbol takes
            a frame).
        py: scores of blank arcs, `(B, S + 1, T)`.
        boundary: `(B, 4)` int64, `[s_begin, t_begin, s_end, t_end]`; None: the whole lattice.
        return_grad: also return the occupation counts.

    Returns:
        Totals `(B,)`, float64 for float64 input and float32 otherwise, -inf where no path exists; with
        `return_grad`, `(totals, (px_grad, py_grad))`, the derivatives of the totals by `px` and `py`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    px, py = as_float(px), as_float(py)
    if px.ndim != 3 or py.ndim != 3:
        raise ValueError(f"px and py need 3 dimensions, have {tuple(px.shape)} and {tuple(py.shape)}")
    batch, num_symbols, symbol_frames = px.shape
    num_frames = py.shape[2]
    if tuple(py.shape[:2]) != (batch, num_symbols + 1) or symbol_frames not in (num_frames, num_frames + 1):
        raise ValueError(
            f"px {tuple(px.shape)} and py {tuple(py.shape)}: expected (B, S, T + 1 or T) and (B, S + 1, T)"
        )
    if boundary is None:
        boundary = _default_boundary(batch, num_symbols, num_frames, px.device)
    check_boundary(boundary, batch)
    begins_elsewhere = bool(boundary[:, :2].any())
    with_grad = return_grad or (torch.is_grad_enabled() and (px.requires_grad or py.requires_grad))
    if not begins_elsewhere:
        scores, px_grad, py_grad = _Recursion.apply(px, py, boundary, with_grad)
        return (scores, (px_grad, py_grad)) if return_grad else scores
    moved_px, moved_py = _from_origin(px, py, boundary)
    scores, px_grad, py_grad = _Recursion.apply(moved_px, moved_py, boundary, with_grad)
    if not return_grad:
        return scores
    back = -boundary
    return scores, _from_origin(px_grad, py_grad, back)
