"""Arc scores from a joiner's logits, and what the transducer losses do to them before the recursion.

Shapes: B utterances, S symbols, T frames, K states of a pruned band, V classes; `...` lattice nodes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

RNNT_TYPES = ("regular", "modified", "constrained")
REDUCTIONS = ("none", "mean", "sum")


class _NodeLogProbs(torch.autograd.Function):
    """Log-probabilities of each node's symbol and of blank, without keeping a log-softmax of the lattice."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, symbols: Tensor, blank: int) -> tuple[Tensor, Tensor]:
        normalizers = torch.logsumexp(logits, dim=-1)
        ctx.save_for_backward(logits, symbols, normalizers)
        ctx.blank = blank
        of_symbol = logits.gather(-1, symbols.unsqueeze(-1)).squeeze(-1) - normalizers
        return of_symbol, logits[..., blank] - normalizers

    @staticmethod
    def backward(ctx: Any, symbol_grad: Tensor, blank_grad: Tensor) -> Any:
        logits, symbols, normalizers = ctx.saved_tensors
        grad = (logits - normalizers.unsqueeze(-1)).exp_()
        grad *= -(symbol_grad + blank_grad).unsqueeze(-1)
        grad.scatter_add_(-1, symbols.unsqueeze(-1), symbol_grad.unsqueeze(-1))
        grad[..., ctx.blank] += blank_grad
        return grad, None, None


def node_log_probs(
    logits: Tensor, symbols: Tensor, blank: int, use_hat_loss: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each lattice node's next symbol and of blank.

    Args:
        logits: `(..., V)`, unnormalised.
        symbols: `(...)` int64, the symbol that each node would emit.
        blank: class of the blank.
        use_hat_loss: blank is a Bernoulli decision of its own, and the other classes share what it leaves
            (HAT, Variani et al. 2020, arXiv 2003.07705).

    Returns:
        Two tensors `(...)` of log-probabilities: of the symbol, of blank.
    """
    if not use_hat_loss:
        return _NodeLogProbs.apply(logits, symbols, blank)
    blank_logits = logits[..., blank]
    blank_class = torch.arange(logits.shape[-1], device=logits.device) == blank
    labels = logits.masked_fill(blank_class, -torch.inf)
    of_symbol = labels.gather(-1, symbols.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(labels, dim=-1)
    return of_symbol + functional.logsigmoid(-blank_logits), functional.logsigmoid(blank_logits)


def check_arguments(rnnt_type: str, reduction: str) -> None:
    """Refuse names that the losses do not know.

    Raises:
        ValueError: naming the argument and its value.
    """
    if rnnt_type not in RNNT_TYPES:
        raise ValueError(f"rnnt_type '{rnnt_type}': expected one of {', '.join(RNNT_TYPES)}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction '{reduction}': expected one of {', '.join(REDUCTIONS)}")


def check_symbols(symbols: Tensor, batch: int, num_states: int | None = None) -> None:
    """Refuse symbols whose shape or type does not fit the other arguments.

    Raises:
        ValueError: naming the shape or type that was given.
    """
    if symbols.dtype not in (torch.int64, torch.int32) or symbols.ndim != 2:
        raise ValueError(f"symbols {tuple(symbols.shape)} {symbols.dtype}: expected (B, S) int64")
    if symbols.shape[0] != batch or (num_states is not None and symbols.shape[1] + 1 != num_states):
        expected = f"({batch}, {'S' if num_states is None else num_states - 1})"
        raise ValueError(f"symbols {tuple(symbols.shape)}: expected {expected}")


def check_boundary(boundary: Tensor | None, batch: int) -> None:
    """Refuse a boundary of another shape.

    Raises:
        ValueError: naming the shape that was given.
    """
    if boundary is not None and tuple(boundary.shape) != (batch, 4):
        raise ValueError(f"boundary {tuple(boundary.shape)}: expected ({batch}, 4)")


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
        delay_penalty: nats per frame, in favour of early symbols (k2's delay penalty).

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
    after_end = torch.arange(px.shape[2], device=px.device) == boundary[:, 3:4]
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
        after_end = torch.arange(num_frames, device=px_BTK.device) == boundary[:, 3:4]
        px_BTK = px_BTK.masked_fill(after_end[:, :, None], -torch.inf)
    return px_BTK


def _early_bonus(num_frames: int, boundary: Tensor | None, like: Tensor, delay_penalty: float) -> Tensor:
    """`penalty * ((T_b - 1) / 2 - t)`, `(B or 1, T)`."""
    frames = torch.arange(num_frames, device=like.device, dtype=like.dtype)
    if boundary is None:
        return (delay_penalty * ((num_frames - 1) / 2 - frames)).unsqueeze(0)
    return delay_penalty * ((boundary[:, 3:4].to(like.dtype) - 1) / 2 - frames)


def reduce_loss(loss_B: Tensor, reduction: str) -> Tensor:
    """none: `(B,)`; mean: over the batch; sum."""
    if reduction == "none":
        return loss_B
    return loss_B.mean() if reduction == "mean" else loss_B.sum()
