"""Which states of the lattice the full joiner is evaluated on (Kuang et al. 2022, section 3.3).

Shapes: B utterances, S symbols, T frames, K states kept per frame (`s_range`), D joiner width.
"""

import torch
from torch import Tensor

from kdasr.losses.pruned_rnnt.checks import check_boundary, check_ranges


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> Tensor:
    """States to keep at each frame: the window that carries most of the simple loss's occupation.

    Args:
        px_grad: occupation of symbol arcs, `(B, S, T + 1)` (regular) or `(B, S, T)`.
        py_grad: occupation of blank arcs, `(B, S + 1, T)`.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`.
        s_range: states per frame; raised when no path would fit, lowered to `S + 1` when there are fewer.

    Returns:
        `(B, T, K)` int64, consecutive states of each frame. Windows never move back, and successive ones
        overlap enough for a path to get from one to the next.

    Raises:
        ValueError: `s_range` below 2 (regular) or 1, or shapes that do not fit each other.
    """
    if px_grad.ndim != 3 or py_grad.ndim != 3:
        raise ValueError(f"px_grad and py_grad need 3 dimensions, have {px_grad.ndim} and {py_grad.ndim}")
    if boundary is None:
        raise ValueError("boundary None: expected (B, 4)")
    batch, num_symbols, symbol_frames = px_grad.shape
    num_frames = py_grad.shape[2]
    regular = symbol_frames == num_frames + 1
    if tuple(py_grad.shape[:2]) != (batch, num_symbols + 1) or symbol_frames not in (
        num_frames,
        num_frames + 1,
    ):
        raise ValueError(f"px_grad {tuple(px_grad.shape)} does not fit py_grad {tuple(py_grad.shape)}")
    check_boundary(boundary, batch, num_symbols, num_frames, from_origin=True)
    if s_range < (2 if regular else 1):
        raise ValueError(f"s_range {s_range}: at least {2 if regular else 1} for this rnnt_type")
    s_ends, t_ends = boundary[:, 2:3], boundary[:, 3:4]
    if regular and batch > 0:
        needed = torch.div(s_ends - 1, t_ends.clamp(min=1), rounding_mode="trunc") + 2
        s_range = max(s_range, int(needed.max()))
    s_range = min(s_range, num_symbols + 1)
    s_ends, t_ends = (ends.to(py_grad.device, non_blocking=True) for ends in (s_ends, t_ends))
    starts = _best_windows(px_grad, py_grad, s_range)
    # The last frame and the padding hold the end of the transcript.
    frames = torch.arange(num_frames, device=starts.device)
    starts = torch.where(frames < t_ends - 1, starts, (s_ends - s_range + 1).clamp(min=0))
    starts = _connect(starts, s_range if regular else 2)
    return starts.unsqueeze(2) + torch.arange(s_range, device=starts.device)


def _best_windows(px_grad: Tensor, py_grad: Tensor, s_range: int) -> Tensor:
    """First state of each frame's best window, `(B, T)`: blanks inside, less the symbols that enter it."""
    _, num_states, num_frames = py_grad.shape
    num_windows = num_states - s_range + 1
    scores = py_grad.unfold(1, s_range, 1).sum(3)
    if num_windows > 1:
        scores[:, 1:] -= px_grad[:, : num_windows - 1, :num_frames]
    return scores.argmax(1)


def _never_decrease(starts: Tensor) -> Tensor:
    """The largest non-decreasing sequence that is nowhere above `starts`, along the last dimension."""
    if starts.shape[-1] == 0:
        return starts
    return starts.flip(-1).cummin(-1).values.flip(-1)


def _connect(starts: Tensor, reach: int) -> Tensor:
    """Make windows monotone, from state 0 on, with steps of at most `reach - 1` states."""
    slope = (reach - 1) * torch.arange(starts.shape[1], device=starts.device)
    starts = _never_decrease(starts)
    return slope - _never_decrease(slope - starts).clamp(min=0)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Pick what a joiner needs on the pruned lattice.

    Args:
        am: `(B, T, D)` encoder output or projection.
        lm: `(B, S + 1, D)` predictor output or projection.
        ranges: `(B, T, K)` from `get_rnnt_prune_ranges`.

    Returns:
        `(am_pruned, lm_pruned)`, both `(B, T, K, D)`; the first is a view that repeats `am`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    check_ranges(ranges, lm.shape[1] - 1)
    batch, num_frames, s_range = ranges.shape
    if am.shape[:2] != (batch, num_frames) or lm.shape[0] != batch:
        raise ValueError(
            f"am {tuple(am.shape)}, lm {tuple(lm.shape)} do not fit ranges {tuple(ranges.shape)}"
        )
    num_states = lm.shape[1]
    am_pruned = am.unsqueeze(2).expand(batch, num_frames, s_range, am.shape[2])
    # Rows of a flat table: the gradient adds rows, and no (B, T, S + 1, D) tensor is made.
    rows = ranges + num_states * torch.arange(batch, device=ranges.device)[:, None, None]
    lm_pruned = lm.reshape(batch * num_states, -1).index_select(0, rows.reshape(-1))
    return am_pruned, lm_pruned.reshape(batch, num_frames, s_range, lm.shape[2])
