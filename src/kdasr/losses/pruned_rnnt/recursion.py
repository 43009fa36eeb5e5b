"""The transducer's forward recursion and its occupation counts, one column of the lattice at a time.

A regular transducer arc moves along one axis: a symbol from `(s, t)` to `(s + 1, t)`, a blank to
`(s, t + 1)`. Indexed by `n = s + t`, both arcs go from column `n` to column `n + 1`, and the lattice
becomes that of the modified transducer, where a symbol also takes a frame. So there is one core, which
advances all states of all utterances by one column. A column holds all states (the full lattice) or a window
of them that moves up from column to column (a pruned band).

The gradient of the total with respect to an arc's score is the probability that a path uses the arc (its
occupation). It comes from a backward sweep with the local probabilities of the arcs into each state, and is
computed in the forward pass (the idea of k2's `mutual_information.h`, Kuang et al. 2022, arXiv 2206.13236).

Shapes: B utterances, S symbols, T frames, N columns, K slots of a column; suffix 2: the two kinds of arcs,
symbols first. Scores are log-probabilities.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.first_order import first_order_only
from kdasr.losses.lattice.kernels import recursion_kernels
from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.checks import check_boundary

_NOTHING = 1e-18
"""A probability at or below which a state or an arc is not followed further. Products of two that are
followed are normal numbers; products of many would soon be denormal ones, with which Intel processors
calculate many times as slowly."""


class Columns(NamedTuple):
    """Arc scores in column order."""

    arcs_N2BK: Tensor
    """`[n, 0, b, k]`: the symbol arc that arrives in slot k of column n + 1; `[n, 1, b, k]`: the blank arc
    that does. -inf: no such arc."""
    shifts_NB: Tensor | None
    """How many states the first slot of column n + 1 lies above that of column n; None: a slot is a state."""
    ends_B: Tensor
    """Column of each utterance's last state."""
    end_slots_B: Tensor
    """The last state's slot there; -1: it has none, so no path gets there."""


def lattice_totals(columns: Columns, with_occupation: bool) -> tuple[Tensor, Tensor | None]:
    """Total log-probability of each utterance `(B,)`, and the occupation of every arc when asked for.

    The occupation has the layout of `Columns.arcs_N2BK`, is zero where nothing reaches the end, and may
    take the storage of the arcs. On the CPU it is also zero where it is so small that its type cannot tell it
    beside the 1 that the arcs out of all states of a frame sum to: such arcs need not be looked at again.
    """
    arcs = columns.arcs_N2BK
    kernels = recursion_kernels(arcs)
    totals = kernels.advance(columns) if kernels else advance(columns)
    utterances = torch.arange(totals.shape[1], device=totals.device)
    # Slot -1 reads the pad before the first slot: -inf.
    scores_B = totals[columns.ends_B, utterances, columns.end_slots_B + 1]
    scores_B = scores_B.to(arcs.dtype)
    if not with_occupation:
        return scores_B, None
    return scores_B, kernels.occupy(totals, columns) if kernels else occupy(totals, columns)


def advance(columns: Columns) -> Tensor:
    """Totals `(N + 1, B, K + 2)`: slot k of a column at `k + 1`, between two pads that stay -inf."""
    arcs = columns.arcs_N2BK
    num_columns, _, batch, num_slots = arcs.shape
    totals = arcs.new_full((num_columns + 1, batch, num_slots + 2), -torch.inf)
    totals[0, :, 1] = 0.0
    scratch = arcs.new_empty((2, batch, num_slots))
    symbol, blank = scratch.unbind(0)
    targets = totals[1:, :, 1:-1].unbind(0)
    if columns.shifts_NB is None:
        for source, arc, target in zip(_sources(totals).unbind(0), arcs.unbind(0), targets, strict=True):
            torch.add(source, arc, out=scratch)
            torch.logaddexp(symbol, blank, out=target)
        return totals
    flat_scratch = scratch.view(-1)
    sources = _shifted_sources(columns.shifts_NB, num_slots).unbind(0)
    flat_totals = totals.view(num_columns + 1, -1).unbind(0)
    for flat, source, arc, target in zip(flat_totals, sources, arcs.unbind(0), targets, strict=False):
        torch.index_select(flat, 0, source, out=flat_scratch)
        scratch.add_(arc)
        torch.logaddexp(symbol, blank, out=target)
    return totals


def _sources(totals: Tensor) -> Tensor:
    """Views `(N, 2, B, K)` of an unshifted lattice's totals: the slot below each one, and the slot itself."""
    num_columns, batch, width = totals.shape
    column, utterance, slot = totals.stride()
    return totals.as_strided((num_columns - 1, 2, batch, width - 2), (column, slot, utterance, slot))


def _shifted_sources(shifts_NB: Tensor, num_slots: int) -> Tensor:
    """Where in a flat column of totals the two sources of each slot stand, `(N, 2 * B * K)`."""
    num_columns, batch = shifts_NB.shape
    slots = torch.arange(num_slots, device=shifts_NB.device)
    below = shifts_NB[:, :, None] + slots
    places = torch.stack((below, below + 1), dim=1).clamp_(max=num_slots + 1)
    places += (num_slots + 2) * torch.arange(batch, device=shifts_NB.device)[:, None]
    return places.view(num_columns, -1)


def occupy(totals: Tensor, columns: Columns) -> Tensor:
    """Occupation of every arc, in the arcs' layout and storage; uses up the totals."""
    num_columns, _, batch, num_slots = columns.arcs_N2BK.shape
    occupation = columns.arcs_N2BK
    shifted = None
    if columns.shifts_NB is None:
        occupation += _sources(totals)
    else:
        shifted = _shifted_sources(columns.shifts_NB, num_slots)
        occupation += totals[:-1].reshape(num_columns, -1).gather(1, shifted).view_as(occupation)
    _to_local_probabilities(occupation)
    # The sweep below turns them into occupations in place.
    visits = totals.zero_()
    utterances = torch.arange(batch, device=totals.device)
    visits[columns.ends_B, utterances, columns.end_slots_B + 1] = 1.0
    arcs, targets = occupation.unbind(0), visits[:, :, 1:-1].unbind(0)
    if shifted is not None:
        flat_visits, flat_arcs = visits.view(num_columns + 1, -1).unbind(0), occupation.view(num_columns, -1)
        places, flows = shifted.unbind(0), flat_arcs.unbind(0)
        for n in range(num_columns - 1, -1, -1):
            arcs[n].mul_(targets[n + 1])
            torch.threshold_(flat_visits[n].index_add_(0, places[n], flows[n]), _NOTHING, 0.0)
        return _without_traces(occupation)
    below, whole = visits[:, :, :-2].unbind(0), visits.unbind(0)
    symbols, blanks = occupation[:, 0].unbind(0), occupation[:, 1].unbind(0)
    for n in range(num_columns - 1, -1, -1):
        arcs[n].mul_(targets[n + 1])
        targets[n].add_(blanks[n])
        below[n].add_(symbols[n])
        torch.threshold_(whole[n], _NOTHING, 0.0)
    return _without_traces(occupation)


def _without_traces(occupation: Tensor) -> Tensor:
    return torch.threshold_(occupation, torch.finfo(occupation.dtype).eps / 1000.0, 0.0)


def _to_local_probabilities(scores_N2BK: Tensor) -> None:
    """Turn the scores of the two arcs into a state into their probabilities, in place.

    Logistic, so that they sum to exactly 1 and rounding of the totals neither makes nor loses probability
    along the way. -inf on both sides: nothing reaches the state.
    """
    symbols, blanks = scores_N2BK.unbind(1)
    odds = blanks.sub_(symbols)
    torch.sigmoid(odds.neg(), out=symbols)
    odds.sigmoid_()
    torch.threshold_(scores_N2BK.nan_to_num_(nan=0.0), _NOTHING, 0.0)


def default_boundary(batch: int, num_symbols: int, num_frames: int, device: torch.device) -> Tensor:
    """The boundary of utterances that fill their tensors, `(B, 4)`."""
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
    return Columns(arcs, None, ends, end_states)


def _lattice_views(arcs: Tensor, symbol_frames: int, num_frames: int, regular: bool) -> tuple[Tensor, Tensor]:
    """The symbol arcs as `(B, S, symbol_frames)` and the blank arcs as `(B, S + 1, T)`, without a copy."""
    _, _, batch, num_states = arcs.shape
    column, kind, utterance, state = arcs.stride()
    strides = (utterance, state + (column if regular else 0), column)
    offset = arcs.storage_offset()
    symbols = arcs.as_strided((batch, num_states - 1, symbol_frames), strides, offset + state)
    blanks = arcs.as_strided((batch, num_states, num_frames), strides, offset + kind)
    return symbols, blanks


def lattice_of(
    px: Tensor, py: Tensor, boundary: Tensor | None, with_occupation: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Totals `(B,)` and, when asked for, `(px_grad, py_grad)`, without autograd.

    Arguments as in `mutual_information_recursion`.
    """
    batch, num_states, num_frames = py.shape
    if boundary is None:
        boundary = default_boundary(batch, num_states - 1, num_frames, px.device)
        elsewhere = False
    else:
        # On another device looking would make the CPU wait, and moving by 0 is right too.
        elsewhere = boundary.device.type != "cpu" or bool(boundary[:, :2].any())
        boundary = boundary.to(px.device, non_blocking=True).long()
    if elsewhere:
        px, py = _from_origin(px, py, boundary)
    columns = _to_columns(px, py, boundary)
    scores, occupation = lattice_totals(columns, with_occupation)
    if occupation is None:
        return scores, None
    symbols, blanks = _lattice_views(occupation, px.shape[2], num_frames, px.shape[2] == num_frames + 1)
    if elsewhere:
        return scores, _from_origin(symbols, blanks, -boundary)
    return scores, (symbols.contiguous(), blanks.contiguous())


class _Recursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, px: Tensor, py: Tensor, boundary: Tensor | None, with_grad: bool) -> Any:
        """Totals `(B,)` and, when asked, the two occupations (else empty tensors)."""
        scores, grads = lattice_of(px, py, boundary, with_grad)
        px_grad, py_grad = grads or (px.new_empty(0), py.new_empty(0))
        ctx.save_for_backward(px_grad, py_grad)
        ctx.mark_non_differentiable(px_grad, py_grad)
        return scores, px_grad, py_grad

    @staticmethod
    @first_order_only
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
        ValueError: shapes that do not fit each other, or utterances that end beyond the tensors.
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
    check_boundary(boundary, batch, num_symbols, num_frames)
    with_grad = return_grad or (torch.is_grad_enabled() and (px.requires_grad or py.requires_grad))
    scores, px_grad, py_grad = _Recursion.apply(px, py, boundary, with_grad)
    return (scores, (px_grad, py_grad)) if return_grad else scores
