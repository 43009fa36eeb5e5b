"""The recursion on a pruned band: the arcs of K states per frame, and nothing else of the lattice.

Along an anti-diagonal `n = s + t` a band that never moves back holds at most K states, and they are
consecutive, so the columns of the recursion are K wide however long the transcript is. The first state of
column n lies in the last frame whose window begins at or before that column, and moves up by 0 or 1 from one
column to the next. In the modified lattice a column is a frame.

Shapes: B utterances, S symbols, T frames, N columns, K states kept per frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.pruned_rnnt.arcs import finish_band_arcs
from kdasr.losses.pruned_rnnt.recursion import Columns, lattice_totals


class BandTotals(NamedTuple):
    """What the recursion says about a band."""

    scores_B: Tensor
    """Total log-probability of the utterances; -inf where no path stays in the band."""
    symbol_grad_BTK: Tensor | None
    """Derivative of the totals by each node's symbol score ..."""
    blank_grad_BTK: Tensor | None
    """... and by its blank score."""
    occupation_BTK: Tensor | None
    """Probability that a path leaves a node by either arc. None, like the two above, unless asked for."""


class _Layout(NamedTuple):
    """Where the band's nodes stand in the columns."""

    columns_BTK: Tensor
    slots_BTK: Tensor
    shifts_NB: Tensor
    ends_B: Tensor
    end_slots_B: Tensor


def band_totals(
    px_BTK: Tensor,
    py_BTK: Tensor,
    ranges_BTK: Tensor,
    boundary: Tensor | None,
    num_symbols: int,
    rnnt_type: str,
    delay_penalty: float,
    with_occupation: bool,
) -> BandTotals:
    """Run the recursion on a band, without autograd.

    Args:
        px_BTK: log-probability of each node's symbol, anything at a node without one.
        py_BTK: log-probability of each node's blank.
        ranges_BTK: int64 states of each frame, consecutive, first ones never decreasing.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`, or None.
        num_symbols: S.
        rnnt_type: regular | modified | constrained.
        delay_penalty: nats per frame in favor of early symbols.
        with_occupation: also how often paths use each arc, which is the gradient.
    """
    if px_BTK.shape[1] == 0:
        return _without_frames(px_BTK, boundary, num_symbols)
    symbol_arcs = finish_band_arcs(px_BTK, py_BTK, boundary, rnnt_type, delay_penalty)
    layout = _locate(ranges_BTK, boundary, num_symbols, regular=rnnt_type == "regular")
    arcs, symbols_at, blanks_at = _fill(symbol_arcs, py_BTK, ranges_BTK, layout, num_symbols)
    columns = Columns(arcs, layout.shifts_NB, layout.ends_B, layout.end_slots_B)
    scores_B, occupation = lattice_totals(columns, with_occupation)
    if occupation is None:
        return BandTotals(scores_B, None, None, None)
    # The last element stands for all arcs that lead out of the band.
    flat = functional.pad(occupation.view(-1), (0, 1))
    symbol_grad, blank_grad = flat[symbols_at], flat[blanks_at]
    leaving = symbol_grad + blank_grad
    if rnnt_type == "constrained":
        blank_grad = blank_grad + functional.pad(symbol_grad[:, :, :-1], (1, 0))
    return BandTotals(scores_B, symbol_grad, blank_grad, leaving)


def _without_frames(px_BTK: Tensor, boundary: Tensor | None, num_symbols: int) -> BandTotals:
    batch = px_BTK.shape[0]
    symbols_B = px_BTK.new_full((batch,), num_symbols) if boundary is None else boundary[:, 2].to(px_BTK)
    scores_B = torch.where(symbols_B == 0, 0.0, -torch.inf).to(px_BTK)
    return BandTotals(scores_B, px_BTK, px_BTK, px_BTK)


def _locate(ranges_BTK: Tensor, boundary: Tensor | None, num_symbols: int, regular: bool) -> _Layout:
    batch, num_frames, num_kept = ranges_BTK.shape
    device = ranges_BTK.device
    if boundary is None:
        end_states_B = torch.full((batch,), num_symbols, device=device)
        t_ends_B = torch.full((batch,), num_frames, device=device)
    else:
        end_states_B, t_ends_B = boundary[:, 2], boundary[:, 3]
    frames = torch.arange(num_frames + 1, device=device)
    # The padding, and a frame after the last one, keep the last frame's window: the final state is there.
    kept_BT = torch.minimum(frames, (t_ends_B - 1).clamp(min=0)[:, None])
    firsts_BT = ranges_BTK[:, :, 0].gather(1, kept_BT)
    if not regular:
        last_B = firsts_BT.gather(1, t_ends_B[:, None])[:, 0]
        # The last symbol takes the last frame, and may step one state above its window.
        above_BT = (end_states_B == last_B + num_kept)[:, None] & (frames >= t_ends_B.clamp(min=1)[:, None])
        firsts_BT = firsts_BT + above_BT
        slots_BTK = torch.arange(num_kept, device=device).expand_as(ranges_BTK)
        columns_BTK = frames[:num_frames, None].expand_as(ranges_BTK)
        ends_B, end_slots_B = t_ends_B, end_states_B - firsts_BT.gather(1, t_ends_B[:, None])[:, 0]
        # Slot 0 of the first column is where paths begin, so it has to be state 0.
        end_slots_B = torch.where(firsts_BT[:, 0] == 0, end_slots_B, -1)
        return _Layout(
            columns_BTK, slots_BTK, firsts_BT.diff(dim=1).t(), ends_B, _inside(end_slots_B, num_kept)
        )
    columns_N = torch.arange(num_frames + num_symbols + 1, device=device)
    window_begins_BT = (firsts_BT + frames).contiguous()
    last_frame_BN = (
        torch.searchsorted(window_begins_BT, columns_N.expand(batch, -1).contiguous(), right=True) - 1
    )
    first_states_BN = columns_N - last_frame_BN.clamp(min=0)
    columns_BTK = frames[:num_frames, None] + ranges_BTK
    slots_BTK = ranges_BTK - first_states_BN.gather(1, columns_BTK.flatten(1)).view_as(ranges_BTK)
    ends_B = t_ends_B + end_states_B
    end_slots_B = end_states_B - first_states_BN.gather(1, ends_B[:, None])[:, 0]
    return _Layout(
        columns_BTK, slots_BTK, first_states_BN.diff(dim=1).t(), ends_B, _inside(end_slots_B, num_kept)
    )


def _inside(slots: Tensor, num_slots: int) -> Tensor:
    return torch.where((slots >= 0) & (slots < num_slots), slots, -1)


def _fill(
    symbol_arcs_BTK: Tensor, blank_arcs_BTK: Tensor, ranges_BTK: Tensor, layout: _Layout, num_symbols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Arcs in column order, and where each node's symbol and blank arc went (one past the end: nowhere)."""
    batch, _, num_kept = symbol_arcs_BTK.shape
    num_columns = layout.shifts_NB.shape[0]
    utterances = torch.arange(batch, device=ranges_BTK.device)[:, None, None]
    shift_BTK = layout.shifts_NB[layout.columns_BTK, utterances]
    nowhere = num_columns * 2 * batch * num_kept

    def places(kind: int, targets: Tensor, valid: Tensor) -> Tensor:
        flat = ((2 * layout.columns_BTK + kind) * batch + utterances) * num_kept + targets
        return torch.where(valid & (targets >= 0) & (targets < num_kept), flat, nowhere)

    arrived = layout.slots_BTK - shift_BTK
    in_column = (layout.slots_BTK >= 0) & (layout.slots_BTK < num_kept)
    symbols_at = places(0, arrived + 1, in_column & (ranges_BTK < num_symbols))
    blanks_at = places(1, arrived, in_column)
    flat = symbol_arcs_BTK.new_full((nowhere + 1,), -torch.inf)
    flat[symbols_at] = symbol_arcs_BTK
    flat[blanks_at] = blank_arcs_BTK
    return flat[:-1].view(num_columns, 2, batch, num_kept), symbols_at, blanks_at
