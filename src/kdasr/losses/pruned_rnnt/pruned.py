"""The pruned transducer loss: a joiner's logits on a band of states, and the recursion on that band.

Kuang et al. 2022 (arXiv 2206.13236). The band's arcs go straight into the recursion's columns; the full
`(S, T)` lattice is never filled with -inf and rolled.

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import (
    check_arguments,
    check_boundary,
    check_symbols,
    finish_band_arcs,
    node_log_probs,
    reduce_loss,
)
from kdasr.losses.pruned_rnnt.recursion import Columns, advance, end_totals, occupy


class _Band(NamedTuple):
    """Where the arcs of a band go in `Columns.arcs_N2BS`, as flat indices `(B, T, K)`."""

    symbols: Tensor
    blanks: Tensor
    shape: tuple[int, int, int, int]
    ends_B: Tensor
    end_states_B: Tensor


def _locate(ranges: Tensor, boundary: Tensor | None, num_symbols: int, rnnt_type: str) -> _Band:
    batch, num_frames, _ = ranges.shape
    num_states = num_symbols + 1
    regular = rnnt_type == "regular"
    device = ranges.device
    frames = torch.arange(num_frames, device=device)[:, None]
    columns = frames + ranges if regular else frames.expand_as(ranges)
    utterances = torch.arange(batch, device=device)[:, None, None]
    base = (2 * columns * batch + utterances) * num_states
    # The last state has no symbol arc; what stands there goes where it is never used, before state 0.
    symbols = base + (ranges + 1) % num_states
    blanks = base + batch * num_states + ranges
    if boundary is None:
        end_states = torch.full((batch,), num_symbols, device=device)
        t_ends = torch.full((batch,), num_frames, device=device)
    else:
        end_states, t_ends = boundary[:, 2], boundary[:, 3]
    num_columns = num_frames + (num_symbols if regular else 0)
    ends = t_ends + end_states if regular else t_ends
    return _Band(symbols, blanks, (num_columns, 2, batch, num_states), ends, end_states)


class _BandRecursion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, px_BTK: Tensor, py_BTK: Tensor, band: _Band, with_grad: bool) -> Any:
        """Totals `(B,)` and, when asked, the two occupations `(B, T, K)` (else empty tensors)."""
        arcs = px_BTK.new_full(band.shape, -torch.inf)
        flat = arcs.view(-1)
        flat[band.symbols] = px_BTK
        flat[band.blanks] = py_BTK
        columns = Columns(arcs, band.ends_B, band.end_states_B)
        totals = advance(columns)
        scores = end_totals(totals, columns)
        if not with_grad:
            return scores, px_BTK.new_empty(0), py_BTK.new_empty(0)
        occupation = occupy(totals, columns).view(-1)
        px_grad, py_grad = occupation[band.symbols], occupation[band.blanks]
        ctx.save_for_backward(px_grad, py_grad)
        ctx.mark_non_differentiable(px_grad, py_grad)
        return scores, px_grad, py_grad

    @staticmethod
    def backward(ctx: Any, grad_B: Tensor, *_: Any) -> Any:
        px_grad, py_grad = ctx.saved_tensors
        scale = grad_B[:, None, None]
        return px_grad * scale, py_grad * scale, None, None


def rnnt_loss_pruned_with_occupation(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    use_hat_loss: bool = False,
) -> tuple[Tensor, Tensor]:
    """The pruned loss of each utterance, and how likely its paths are to pass through each node.

    Arguments as in `rnnt_loss_pruned`.

    Returns:
        `(loss_B, occupation_BTK)`: nats, and the probability that a path under the pruned lattice leaves
        node `(t, k)`, without gradient; a state's occupations sum to at least 1 over the frames of a path.
    """
    check_arguments(rnnt_type, "none")
    if logits.ndim != 4 or ranges.ndim != 3 or tuple(logits.shape[:3]) != tuple(ranges.shape):
        raise ValueError(
            f"logits {tuple(logits.shape)} and ranges {tuple(ranges.shape)}: "
            "expected (B, T, K, V) and (B, T, K)"
        )
    check_symbols(symbols, logits.shape[0])
    check_boundary(boundary, logits.shape[0])
    num_symbols = symbols.shape[1]
    with torch.autocast(device_type=logits.device.type, enabled=False):
        nodes = functional.pad(symbols.long(), (0, 1), value=termination_symbol)
        nodes_BTK = nodes.gather(1, ranges.flatten(1)).view_as(ranges)
        px, py = node_log_probs(as_float(logits), nodes_BTK, termination_symbol, use_hat_loss)
        px = finish_band_arcs(px, py, boundary, rnnt_type, delay_penalty)
        band = _locate(ranges, boundary, num_symbols, rnnt_type)
        scores, px_grad, py_grad = _BandRecursion.apply(px, py, band, True)
    return -scores, px_grad + py_grad


def rnnt_loss_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    use_hat_loss: bool = False,
) -> Tensor:
    """Transducer loss of a joiner evaluated on the pruned lattice.

    Args:
        logits: `(B, T, K, V)`, unnormalised, of the states in `ranges`.
        symbols: `(B, S)` int64, without a start symbol.
        ranges: `(B, T, K)` from `get_rnnt_prune_ranges`.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified | constrained, as in `rnnt_loss_simple`.
        delay_penalty: nats per frame in favour of early symbols.
        reduction: none | mean (over utterances) | sum.
        use_hat_loss: factor blank out of the softmax (HAT, Variani et al. 2020).

    Returns:
        The loss in nats, float32 (float64 for float64 logits); inf where no path stays in the band.

    Raises:
        ValueError: an unknown `rnnt_type` or `reduction`, or shapes that do not fit each other.
    """
    check_arguments(rnnt_type, reduction)
    loss_B, _ = rnnt_loss_pruned_with_occupation(
        logits, symbols, ranges, termination_symbol, boundary, rnnt_type, delay_penalty, use_hat_loss
    )
    return reduce_loss(loss_B, reduction)
