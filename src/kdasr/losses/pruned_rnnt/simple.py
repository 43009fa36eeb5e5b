"""The trivial-joiner losses: `logits = am + lm`, whose normaliser is one matrix product.

Kuang et al. 2022, "Pruned RNN-T for fast, memory-efficient ASR training" (arXiv 2206.13236), sections 3.1
and 3.4; arguments and results are those of k2's functions of the same names.

Shapes: B utterances, S symbols, T frames, C classes.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import (
    check_arguments,
    check_boundary,
    check_symbols,
    finish_symbol_arcs,
    reduce_loss,
)
from kdasr.losses.pruned_rnnt.recursion import mutual_information_recursion


class _Arcs(NamedTuple):
    px: Tensor  # (B, S, T)
    py: Tensor  # (B, S + 1, T)


class _Factors(NamedTuple):
    """What the arc scores are made of; each list's members broadcast to `_Arcs`."""

    am_symbols: Tensor  # (B, S, T)
    lm_symbols: Tensor  # (B, S, 1)
    am_blank: Tensor  # (B, 1, T)
    lm_blank: Tensor  # (B, S + 1, 1)
    am_probs: Tensor  # (B, T, C), exp(am - am_max)
    lm_probs: Tensor  # (B, S + 1, C), exp(lm - lm_max)
    am_max: Tensor  # (B, 1, T)
    lm_max: Tensor  # (B, S + 1, 1)


def _factors(lm: Tensor, am: Tensor, symbols: Tensor, blank: int) -> _Factors:
    batch, num_frames, _ = am.shape
    num_symbols = symbols.shape[1]
    am_max, lm_max = am.detach().amax(2, keepdim=True), lm.detach().amax(2, keepdim=True)
    # Gathering from the transposed scores spares a (B, S, T, C) view and its gradient.
    am_symbols = am.transpose(1, 2).gather(1, symbols[:, :, None].expand(batch, num_symbols, num_frames))
    return _Factors(
        am_symbols=am_symbols,
        lm_symbols=lm[:, :num_symbols].gather(2, symbols[:, :, None]),
        am_blank=am[:, None, :, blank],
        lm_blank=lm[:, :, blank, None],
        am_probs=(am - am_max).exp(),
        lm_probs=(lm - lm_max).exp(),
        am_max=am_max.transpose(1, 2),
        lm_max=lm_max,
    )


def _combined_arcs(f: _Factors) -> _Arcs:
    product = torch.matmul(f.lm_probs, f.am_probs.transpose(1, 2))
    normalizers = (product + torch.finfo(product.dtype).tiny).log() + f.lm_max + f.am_max
    num_symbols = f.lm_symbols.shape[1]
    return _Arcs(
        px=f.am_symbols + f.lm_symbols - normalizers[:, :num_symbols],
        py=f.am_blank + f.lm_blank - normalizers,
    )


def _lm_only_arcs(f: _Factors) -> _Arcs:
    normalizers = f.lm_probs.sum(2, keepdim=True).log() + f.lm_max
    return _Arcs(f.lm_symbols - normalizers[:, : f.lm_symbols.shape[1]], f.lm_blank - normalizers)


def _am_only_arcs(f: _Factors, symbols: Tensor, blank: int) -> _Arcs:
    """Arcs under the batch's mean unigram of lm, padding included as in k2."""
    tiny = torch.finfo(f.lm_probs.dtype).tiny
    unigram = (f.lm_probs / f.lm_probs.sum(2, keepdim=True)).mean((0, 1)) + tiny
    normalizers = torch.matmul(f.am_probs, unigram).log()[:, None, :] + f.am_max
    log_unigram = unigram.log()
    return _Arcs(
        px=f.am_symbols + log_unigram[symbols][:, :, None] - normalizers,
        py=f.am_blank + log_unigram[blank] - normalizers,
    )


def _check_inputs(lm: Tensor, am: Tensor, symbols: Tensor, boundary: Tensor | None) -> None:
    if lm.ndim != 3 or am.ndim != 3 or lm.shape[0] != am.shape[0] or lm.shape[2] != am.shape[2]:
        raise ValueError(
            f"lm {tuple(lm.shape)} and am {tuple(am.shape)}: expected (B, S + 1, C) and (B, T, C)"
        )
    check_symbols(symbols, am.shape[0], lm.shape[1])
    check_boundary(boundary, am.shape[0])


def _total(
    arcs: _Arcs,
    boundary: Tensor | None,
    rnnt_type: str,
    delay_penalty: float,
    reduction: str,
    return_grad: bool,
) -> Any:
    px = finish_symbol_arcs(arcs.px, arcs.py, boundary, rnnt_type, delay_penalty)
    result = mutual_information_recursion(px, arcs.py, boundary, return_grad)
    if not return_grad:
        return reduce_loss(-result, reduction)
    scores, grads = result
    return reduce_loss(-scores, reduction), grads


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
        lm: `(B, S + 1, C)` unnormalised scores of the predictor.
        am: `(B, T, C)` unnormalised scores of the encoder.
        symbols: `(B, S)` int64, without a start symbol.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[s_begin, t_begin, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified (a symbol takes a frame) | constrained (modified, and a blank follows).
        delay_penalty: nats per frame in favour of early symbols.
        reduction: none | mean (over utterances) | sum.
        return_grad: also return the occupations that pruning needs.

    Returns:
        The loss in nats (at least float32, whatever the input); with `return_grad`,
        `(loss, (px_grad, py_grad))`.

    Raises:
        ValueError: an unknown `rnnt_type` or `reduction`, or shapes that do not fit each other.
    """
    check_arguments(rnnt_type, reduction)
    _check_inputs(lm, am, symbols, boundary)
    with torch.autocast(device_type=am.device.type, enabled=False):
        factors = _factors(as_float(lm), as_float(am), symbols.long(), termination_symbol)
        return _total(_combined_arcs(factors), boundary, rnnt_type, delay_penalty, reduction, return_grad)


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
) -> Any:
    """`rnnt_loss_simple` on arc scores interpolated with those of lm alone and of am alone.

    The scores are `combined * (1 - l - a) + lm_only * l + am_only * a`; `am_only` takes the batch's mean
    unigram for lm. See `rnnt_loss_simple` for the other arguments, the result and the errors.
    """
    check_arguments(rnnt_type, reduction)
    _check_inputs(lm, am, symbols, boundary)
    # A scale of exactly 0 would turn a score of -inf into NaN.
    combined_scale = 1.0 - lm_only_scale - am_only_scale
    lm_scale, am_scale = lm_only_scale or 1e-20, am_only_scale or 1e-20
    with torch.autocast(device_type=am.device.type, enabled=False):
        symbols = symbols.long()
        factors = _factors(as_float(lm), as_float(am), symbols, termination_symbol)
        parts = zip(
            _combined_arcs(factors),
            _lm_only_arcs(factors),
            _am_only_arcs(factors, symbols, termination_symbol),
            strict=True,
        )
        mixed = _Arcs(*(c * combined_scale + lo * lm_scale + ao * am_scale for c, lo, ao in parts))
        return _total(mixed, boundary, rnnt_type, delay_penalty, reduction, return_grad)
