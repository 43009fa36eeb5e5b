"""The trivial-joiner losses: `logits = am + lm`, whose normalizer is one matrix product.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training" (arXiv 2206.13236), sections 3.1
and 3.4; arguments and results are those of k2's functions of the same names. Gradients are written out: the
recursion says how often each arc is used, and an arc's score is a sum of a few factors.

Shapes: B utterances, S symbols, T frames, C classes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.first_order import first_order_only
from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import finish_symbol_arcs, reduce_loss
from kdasr.losses.pruned_rnnt.checks import check_boundary, check_names, check_symbols
from kdasr.losses.pruned_rnnt.recursion import lattice_of
from kdasr.losses.pruned_rnnt.windows import check_windows, outside_lattice
from kdasr.nn.linear import linear_product


class _Scales(NamedTuple):
    """Weights of the three kinds of arc scores; they sum to 1."""

    combined: float
    lm_only: float
    am_only: float


class _Factors(NamedTuple):
    """What the arc scores and their gradients are made of."""

    am_probs_BCT: Tensor
    """exp(am - its maximum over the classes); transposed, so that a class is one row."""
    lm_probs_BSC: Tensor
    """exp(lm - its maximum over the classes), `(B, S + 1, C)`."""
    product_BST: Tensor
    """The combined normalizer before its logarithm, `(B, S + 1, T)`."""
    unigram_C: Tensor | None
    """The batch's mean of softmax(lm), padding included as in k2; None without `am_only`."""


def _score_arcs(
    lm: Tensor, am: Tensor, symbols: Tensor, blank: int, scales: _Scales
) -> tuple[Tensor, Tensor, _Factors]:
    """Scores of symbol arcs `(B, S, T)` and of blank arcs `(B, S + 1, T)`."""
    num_symbols = symbols.shape[1]
    am_BCT = am.transpose(1, 2).contiguous()
    am_max, lm_max = am_BCT.amax(1, keepdim=True), lm.amax(2, keepdim=True)
    am_probs, lm_probs = (am_BCT - am_max).exp_(), (lm - lm_max).exp_()
    product = _batched_product(lm_probs, am_probs.transpose(1, 2)).add_(torch.finfo(lm.dtype).tiny)
    py = product.log().add_(lm_max).add_(am_max).mul_(-scales.combined)
    if scales.lm_only:
        py -= scales.lm_only * (lm_probs.sum(2, keepdim=True).log() + lm_max)
    unigram = None
    if scales.am_only:
        tiny = torch.finfo(lm.dtype).tiny
        unigram = (lm_probs / lm_probs.sum(2, keepdim=True)).mean((0, 1)) + tiny
        py -= scales.am_only * ((unigram[:, None] * am_probs).sum(1, keepdim=True).log() + am_max)
    px = py[:, :num_symbols].clone()
    of_am, of_lm = scales.combined + scales.am_only, scales.combined + scales.lm_only
    px.add_(am_BCT.gather(1, symbols[:, :, None].expand_as(px)), alpha=of_am)
    px.add_(lm[:, :num_symbols].gather(2, symbols[:, :, None]), alpha=of_lm)
    py.add_(am_BCT[:, blank, None], alpha=of_am).add_(lm[:, :, blank, None], alpha=of_lm)
    if unigram is not None:
        log_unigram = unigram.log()
        px.add_(log_unigram[symbols][:, :, None], alpha=scales.am_only)
        py.add_(log_unigram[blank], alpha=scales.am_only)
    return px, py, _Factors(am_probs, lm_probs, product, unigram)


def _arc_gradients(
    px_grad: Tensor, py_grad: Tensor, symbols: Tensor, blank: int, scales: _Scales, f: _Factors
) -> tuple[Tensor, Tensor]:
    """Gradients of lm and am given those of the arc scores."""
    num_symbols = symbols.shape[1]
    nodes_BST = py_grad.clone()
    nodes_BST[:, :num_symbols] += px_grad
    weights_BST = nodes_BST.div(f.product_BST).mul_(-scales.combined)
    lm_grad = _batched_product(weights_BST, f.am_probs_BCT).mul_(f.lm_probs_BSC)
    am_grad = _batched_product(f.lm_probs_BSC.transpose(1, 2), weights_BST.transpose(1, 2))
    am_grad.mul_(f.am_probs_BCT)
    states_BS1, frames_B1T = nodes_BST.sum(2, keepdim=True), nodes_BST.sum(1, keepdim=True)
    lm_sums = f.lm_probs_BSC.sum(2, keepdim=True)
    if scales.lm_only:
        lm_grad.addcmul_(f.lm_probs_BSC, states_BS1 / lm_sums, value=-scales.lm_only)
    symbol_sums_BS, blank_sums_BS = px_grad.sum(2), py_grad.sum(2)
    if f.unigram_C is not None:
        unigram = f.unigram_C[:, None]
        use_B1T = frames_B1T / (unigram * f.am_probs_BCT).sum(1, keepdim=True)
        am_grad.addcmul_(unigram * f.am_probs_BCT, use_B1T, value=-scales.am_only)
        unigram_grad = -(f.am_probs_BCT * use_B1T).sum((0, 2))
        counts = torch.zeros_like(unigram_grad).index_add_(0, symbols.flatten(), symbol_sums_BS.flatten())
        counts[blank] += blank_sums_BS.sum()
        unigram_grad += counts / f.unigram_C
        softmax = f.lm_probs_BSC / lm_sums
        unigram_grad = unigram_grad - (softmax * unigram_grad).sum(2, keepdim=True)
        lm_grad.addcmul_(softmax, unigram_grad, value=scales.am_only / softmax[..., 0].numel())
    of_am, of_lm = scales.combined + scales.am_only, scales.combined + scales.lm_only
    am_grad.scatter_add_(1, symbols[:, :, None].expand_as(px_grad), of_am * px_grad)
    am_grad[:, blank].add_(py_grad.sum(1), alpha=of_am)
    lm_grad[:, :num_symbols].scatter_add_(2, symbols[:, :, None], of_lm * symbol_sums_BS[:, :, None])
    lm_grad[:, :, blank].add_(blank_sums_BS, alpha=of_lm)
    return lm_grad, am_grad.transpose(1, 2)


def _batched_product(left: Tensor, right: Tensor) -> Tensor:
    """`left[b] @ right[b]^T` for every b."""
    if left.is_cuda:
        return left @ right.transpose(1, 2)
    product = left.new_empty((left.shape[0], left.shape[1], right.shape[1]))
    for one, other, target in zip(left, right, product, strict=True):
        target.copy_(linear_product(one, other))
    return product


class _SimpleLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        lm: Tensor,
        am: Tensor,
        symbols: Tensor,
        boundary: Tensor | None,
        windows: Tensor | None,
        settings: tuple[int, _Scales, str, float, bool],
    ) -> Any:
        """Losses `(B,)` and, when asked, the two occupations (else empty tensors)."""
        blank, scales, rnnt_type, delay_penalty, with_grad = settings
        px, py, factors = _score_arcs(lm, am, symbols, blank, scales)
        if windows is not None:
            px.masked_fill_(outside_lattice(windows, px.shape[2]), -torch.inf)
        px = finish_symbol_arcs(px, py, boundary, rnnt_type, delay_penalty)
        totals, grads = lattice_of(px, py, boundary, with_grad)
        px_grad, py_grad = grads or (px.new_empty(0), py.new_empty(0))
        ctx.mark_non_differentiable(px_grad, py_grad)
        ctx.settings = settings
        ctx.has_unigram = factors.unigram_C is not None
        ctx.save_for_backward(symbols, px_grad, py_grad, *(x for x in factors if x is not None))
        return -totals, px_grad, py_grad

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad_B: Tensor, *_: Any) -> Any:
        blank, scales, rnnt_type, _, _ = ctx.settings
        symbols, px_grad, py_grad, *factors = ctx.saved_tensors
        scale = -grad_B[:, None, None]
        num_frames = py_grad.shape[2]
        px_grad, py_grad = px_grad[:, :, :num_frames] * scale, py_grad * scale
        if rnnt_type == "constrained":
            py_grad[:, 1:] += px_grad
        f = _Factors(*factors, *(() if ctx.has_unigram else (None,)))
        with torch.autocast(device_type=py_grad.device.type, enabled=False):
            lm_grad, am_grad = _arc_gradients(px_grad, py_grad, symbols, blank, scales, f)
        return lm_grad, am_grad, None, None, None, None


def _simple_loss(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    boundary: Tensor | None,
    settings: tuple[int, _Scales, str, float, bool],
    reduction: str,
    windows: Tensor | None = None,
) -> Any:
    blank, scales, rnnt_type, delay_penalty, return_grad = settings
    check_names(rnnt_type, reduction, delay_penalty)
    if lm.ndim != 3 or am.ndim != 3 or lm.shape[0] != am.shape[0] or lm.shape[2] != am.shape[2]:
        raise ValueError(
            f"lm {tuple(lm.shape)} and am {tuple(am.shape)}: expected (B, S + 1, C) and (B, T, C)"
        )
    check_symbols(symbols, am.shape[0], am.shape[2], blank, lm.shape[1])
    check_boundary(boundary, am.shape[0], symbols.shape[1], am.shape[1])
    if windows is not None:
        check_windows(windows, symbols)
    with_grad = return_grad or (torch.is_grad_enabled() and (lm.requires_grad or am.requires_grad))
    settings = (blank, scales, rnnt_type, delay_penalty, with_grad)
    with torch.autocast(device_type=am.device.type, enabled=False):
        loss_B, px_grad, py_grad = _SimpleLoss.apply(
            as_float(lm), as_float(am), symbols.long(), boundary, windows, settings
        )
    loss = reduce_loss(loss_B, reduction)
    return (loss, (px_grad, py_grad)) if return_grad else loss


def rnnt_loss_simple(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
) -> Any:
    """Transducer loss of the joiner `am + lm`.

    Args:
        lm: `(B, S + 1, C)` unnormalized scores of the predictor.
        am: `(B, T, C)` unnormalized scores of the encoder.
        symbols: `(B, S)` int64, without a start symbol.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[s_begin, t_begin, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified (a symbol takes a frame) | constrained (modified, and a blank follows).
        delay_penalty: nats per frame in favor of early symbols.
        reduction: none | mean (over utterances) | sum.
        return_grad: also return the occupations that pruning needs.

    Returns:
        The loss in nats (at least float32, whatever the input); with `return_grad`,
        `(loss, (px_grad, py_grad))`.

    Raises:
        ValueError: an unknown `rnnt_type` or `reduction`, shapes that do not fit each other, and, where
            `checks` looks at values, symbols that are no class and utterances beyond the tensors.
    """
    settings = (termination_symbol, _Scales(1.0, 0.0, 0.0), rnnt_type, delay_penalty, return_grad)
    return _simple_loss(lm, am, symbols, boundary, settings, reduction)


def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float = 0.1,
    am_only_scale: float = 0.1,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
    return_grad: bool = False,
    windows: Tensor | None = None,
) -> Any:
    """`rnnt_loss_simple` on arc scores interpolated with those of lm alone and of am alone.

    The scores are `combined * (1 - l - a) + lm_only * l + am_only * a`; `am_only` takes the batch's mean
    unigram for lm. `windows`: int64 `(B, S, 2)`, the frames in which each symbol may be emitted, first and
    one past the last (not in k2); None: all. See `rnnt_loss_simple` for the other arguments, the result and
    the errors.
    """
    scales = _Scales(1.0 - lm_only_scale - am_only_scale, lm_only_scale, am_only_scale)
    settings = (termination_symbol, scales, rnnt_type, delay_penalty, return_grad)
    return _simple_loss(lm, am, symbols, boundary, settings, reduction, windows)
