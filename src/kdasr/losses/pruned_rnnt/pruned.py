"""The pruned transducer loss of a joiner's logits on a band of states (Kuang et al. 2022, arXiv 2206.13236).

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.lattice.first_order import first_order_only
from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import hat_log_probs, logits_gradient, node_log_probs, reduce_loss
from kdasr.losses.pruned_rnnt.band import BandTotals, band_totals
from kdasr.losses.pruned_rnnt.checks import (
    check_boundary,
    check_logits,
    check_names,
    check_ranges,
    check_symbols,
)


class _BandLoss(torch.autograd.Function):
    """Minus the total, given the gradients that the recursion has already found."""

    @staticmethod
    def forward(ctx: Any, px_BTK: Tensor, py_BTK: Tensor, band: BandTotals) -> Tensor:
        ctx.save_for_backward(band.symbol_grad_BTK, band.blank_grad_BTK)
        return -band.scores_B

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad_B: Tensor) -> Any:
        symbol_grad, blank_grad = ctx.saved_tensors
        scale = -grad_B[:, None, None]
        return symbol_grad * scale, blank_grad * scale, None


class _NodeLogProbs(torch.autograd.Function):
    """`node_log_probs`; keeps the logits and nothing else of their size."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, symbols)
        ctx.blank = blank
        return node_log_probs(logits, symbols, blank)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, symbol_grad: Tensor, blank_grad: Tensor) -> Any:
        logits, symbols = ctx.saved_tensors
        return logits_gradient(logits, symbols, ctx.blank, symbol_grad, blank_grad), None, None


def log_probs_of_nodes(
    logits: Tensor, symbols: Tensor, blank: int, use_hat_loss: bool = False
) -> tuple[Tensor, Tensor]:
    """`node_log_probs` with its gradient, for a joiner with or without a factored blank."""
    if use_hat_loss:
        return hat_log_probs(as_float(logits), symbols, blank)
    return _NodeLogProbs.apply(logits, symbols, blank)


def symbols_of_nodes(symbols: Tensor, ranges: Tensor, termination_symbol: int) -> Tensor:
    """The symbol that each node of a band would emit, `(B, T, K)`; blank where the transcript is over."""
    nodes = functional.pad(symbols.long(), (0, 1), value=termination_symbol)
    return nodes.gather(1, ranges.flatten(1)).view_as(ranges)


def pruned_loss_and_occupation(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    use_hat_loss: bool = False,
    with_occupation: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """The pruned loss of each utterance, and how likely its paths are to leave each node by either arc.

    Arguments and errors as in `rnnt_loss_pruned`; `with_occupation` False: the loss only, without gradient.

    Returns:
        `(loss_B, occupation_BTK)`: nats, and probabilities without gradient.
    """
    check_names(rnnt_type, "none", delay_penalty)
    check_ranges(ranges, symbols.shape[-1])
    if logits.ndim != 4 or tuple(logits.shape[:3]) != tuple(ranges.shape):
        raise ValueError(
            f"logits {tuple(logits.shape)} and ranges {tuple(ranges.shape)}: "
            "expected (B, T, K, V) and (B, T, K)"
        )
    batch, num_frames, _, num_classes = logits.shape
    check_symbols(symbols, batch, num_classes, termination_symbol)
    num_symbols = symbols.shape[1]
    check_boundary(boundary, batch, num_symbols, num_frames, from_origin=True)
    with torch.autocast(device_type=logits.device.type, enabled=False):
        ranges = ranges.long()
        boundary = None if boundary is None else boundary.to(logits.device, non_blocking=True).long()
        nodes_BTK = symbols_of_nodes(symbols, ranges, termination_symbol)
        px, py = log_probs_of_nodes(logits, nodes_BTK, termination_symbol, use_hat_loss)
        check_logits(logits, px, py, boundary)
        with torch.no_grad():
            band = band_totals(
                px, py, ranges, boundary, num_symbols, rnnt_type, delay_penalty, with_occupation
            )
        if not with_occupation:
            return -band.scores_B, None
        return _BandLoss.apply(px, py, band), band.occupation_BTK


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
        logits: `(B, T, K, V)`, unnormalized, of the states in `ranges`.
        symbols: `(B, S)` int64, without a start symbol.
        ranges: `(B, T, K)` from `get_rnnt_prune_ranges`.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified | constrained, as in `rnnt_loss_simple`.
        delay_penalty: nats per frame in favor of early symbols.
        reduction: none | mean (over utterances) | sum.
        use_hat_loss: factor blank out of the softmax (HAT, Variani et al. 2020).

    Returns:
        The loss in nats, float32 (float64 for float64 logits); inf where no path stays in the band.

    Raises:
        ValueError: an unknown `rnnt_type` or `reduction`, shapes that do not fit each other, and, where
            `checks` looks at values, symbols that are no class, utterances beyond the tensors or not from
            the origin, windows that begin late or move back, and NaN logits; the message names the
            argument and the first offender.
    """
    check_names(rnnt_type, reduction)
    loss_B, _ = pruned_loss_and_occupation(
        logits,
        symbols,
        ranges,
        termination_symbol,
        boundary,
        rnnt_type,
        delay_penalty,
        use_hat_loss,
        with_occupation=torch.is_grad_enabled() and logits.requires_grad,
    )
    return reduce_loss(loss_B, reduction)
