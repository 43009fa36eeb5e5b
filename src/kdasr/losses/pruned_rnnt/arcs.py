"""Arc scores from a joiner's logits, and what the transducer losses do to them before the recursion.

Shapes: B utterances, S symbols, T frames, K states of a pruned band, V classes; R lattice nodes.
"""

import torch
from torch import Tensor
from torch.nn import functional

_ROWS_AT_ONCE = 2048


def node_log_probs(logits: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """Log-probability of each lattice node's next symbol and of blank, without autograd.

    The log-softmax exists for some rows at a time only.

    Args:
        logits: `(..., V)`, unnormalized.
        symbols: `(...)` int64, the symbol that each node would emit.
        blank: class of the blank.

    Returns:
        Two tensors `(...)`, of the symbol and of blank, float32 (float64 for float64 logits).
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    scores = logits.new_empty((2, symbols.numel()), dtype=dtype)
    rows = zip(
        logits.reshape(-1, logits.shape[-1]).split(_ROWS_AT_ONCE),
        symbols.reshape(-1, 1).split(_ROWS_AT_ONCE),
        scores.split(_ROWS_AT_ONCE, dim=1),
        strict=False,
    )
    for logits_RV, symbols_R1, scores_2R in rows:
        log_probs_RV = torch.log_softmax(logits_RV.to(dtype), dim=-1)
        torch.gather(log_probs_RV, 1, symbols_R1, out=scores_2R[0].unsqueeze(1))
        scores_2R[1] = log_probs_RV[:, blank]
    of_symbol, of_blank = scores.view(2, *symbols.shape).unbind(0)
    return of_symbol, of_blank


def softmax_to_gradient_(
    probs_RV: Tensor, symbols_R: Tensor, blank: int, symbol_grad_R: Tensor, blank_grad_R: Tensor
) -> Tensor:
    """The gradient of nodes' logits given those of `node_log_probs`, in the storage of their softmax."""
    probs_RV.mul_(-(symbol_grad_R + blank_grad_R).unsqueeze(1))
    probs_RV.scatter_add_(1, symbols_R.unsqueeze(1), symbol_grad_R.unsqueeze(1))
    probs_RV[:, blank] += blank_grad_R
    return probs_RV


def logits_gradient(
    logits: Tensor, symbols: Tensor, blank: int, symbol_grad: Tensor, blank_grad: Tensor
) -> Tensor:
    """The gradient of `node_log_probs` by the logits: `softmax * -(sum of both)`, plus each at its class."""
    dtype = symbol_grad.dtype
    gradient = torch.softmax(logits.reshape(-1, logits.shape[-1]), dim=-1, dtype=dtype)
    rows = (x.reshape(-1).split(_ROWS_AT_ONCE) for x in (symbols, symbol_grad, blank_grad))
    for probs_RV, symbols_R, symbol_R, blank_R in zip(gradient.split(_ROWS_AT_ONCE), *rows, strict=False):
        softmax_to_gradient_(probs_RV, symbols_R, blank, symbol_R, blank_R)
    return gradient.view(logits.shape).to(logits.dtype)


def hat_log_probs(logits: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """`node_log_probs` of a joiner with a factored blank, by autograd.

    Blank is a Bernoulli decision of its own, and the other classes share what it leaves (HAT, Variani et al.
    2020, arXiv 2003.07705).
    """
    blank_logits = logits[..., blank]
    blank_class = torch.arange(logits.shape[-1], device=logits.device) == blank
    labels = logits.masked_fill(blank_class, -torch.inf)
    of_symbol = labels.gather(-1, symbols.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(labels, dim=-1)
    return of_symbol + functional.logsigmoid(-blank_logits), functional.logsigmoid(blank_logits)


def finish_symbol_arcs(
    px: Tensor, py: Tensor, boundary: Tensor | None, rnnt_type: str, delay_penalty: float
) -> Tensor:
    """Symbol arcs of a full lattice, ready for the recursion.

    Args:
        px: `(B, S, T)` scores of symbols.
        py: `(B, S + 1, T)` scores of blanks.
        boundary: `(B, 4)` or None.
        rnnt_type: regular: a last frame without symbols is appended; constrained: the blank that must
            follow a symbol is added to it.
        delay_penalty: nats per frame, in favor of early symbols (k2's delay penalty).

    Returns:
        `(B, S, T + 1)` (regular) or `(B, S, T)`.
    """
    if rnnt_type == "constrained":
        px = px + py[:, 1:, :]
    if delay_penalty > 0.0:
        px = px + _early_bonus(px.shape[2], boundary, px, delay_penalty)[:, None, :]
    if rnnt_type != "regular":
        return px
    px = functional.pad(px, (0, 1), value=-torch.inf)
    if boundary is None:
        return px
    t_ends = boundary[:, 3:4].to(px.device, non_blocking=True)
    after_end = torch.arange(px.shape[2], device=px.device) == t_ends
    return px.masked_fill(after_end[:, None, :], -torch.inf)


def finish_band_arcs(
    px_BTK: Tensor,
    py_BTK: Tensor,
    boundary: Tensor | None,
    rnnt_type: str,
    delay_penalty: float,
) -> Tensor:
    """The same for the symbol arcs of a pruned band; no frame is appended."""
    if rnnt_type == "constrained":
        # The blank after the band's last symbol lies outside the band.
        px_BTK = px_BTK + functional.pad(py_BTK[:, :, 1:], (0, 1), value=-torch.inf)
    num_frames = px_BTK.shape[1]
    if delay_penalty > 0.0:
        px_BTK = px_BTK + _early_bonus(num_frames, boundary, px_BTK, delay_penalty)[:, :, None]
    if rnnt_type == "regular" and boundary is not None:
        t_ends = boundary[:, 3:4].to(px_BTK.device, non_blocking=True)
        after_end = torch.arange(num_frames, device=px_BTK.device) == t_ends
        px_BTK = px_BTK.masked_fill(after_end[:, :, None], -torch.inf)
    return px_BTK


def _early_bonus(num_frames: int, boundary: Tensor | None, like: Tensor, delay_penalty: float) -> Tensor:
    """`penalty * ((T_b - 1) / 2 - t)`, `(B or 1, T)`."""
    frames = torch.arange(num_frames, device=like.device, dtype=like.dtype)
    if boundary is None:
        return (delay_penalty * ((num_frames - 1) / 2 - frames)).unsqueeze(0)
    return delay_penalty * ((boundary[:, 3:4].to(like, non_blocking=True) - 1) / 2 - frames)


def reduce_loss(loss_B: Tensor, reduction: str) -> Tensor:
    """none: `(B,)`; mean: over the batch; sum."""
    if reduction == "none":
        return loss_B
    return loss_B.mean() if reduction == "mean" else loss_B.sum()
