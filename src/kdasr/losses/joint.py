"""Joiner, pruned transducer loss and a divergence to a teacher in one pass over the lattice's nodes.

The joiner is the additive one, `tanh(am + lm) W^T + b`. Its logits are made for a block of frames at a time
and used where they stand: their log-softmax exists for one block only, and the gradient of a block goes
through the joiner before the next one is made. What is kept between forward and backward is one tensor of
logits, or none (`keep_logits=False`: made a second time), and of a divergence its gradient at the nodes that
have weight: a few of a frame's K states once the student can align. It is added to the loss's gradient before
the one product with W. A divergence between paths is a further gradient of the same arcs.

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes, D joiner width; F valid frames
of all utterances, R = F * K nodes in that order, N nodes with weight.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.blocks import Block, Gradients, Plan, plan_of, score_nodes
from kdasr.losses.first_order import first_order_only
from kdasr.losses.joiner import Joint
from kdasr.losses.nodes import NodeTerm, diverge
from kdasr.losses.path_kl import PathKl, PathValues
from kdasr.losses.pruned_rnnt.band import BandTotals, band_totals
from kdasr.losses.pruned_rnnt.checks import check_names
from kdasr.losses.pruned_rnnt.windows import check_windows, outside_band
from kdasr.losses.teacher_band import BandScores


class JointLosses(NamedTuple):
    """What one pass gives."""

    rnnt_B: Tensor
    """Pruned transducer loss in nats; inf where no path stays in the band."""
    occupation_BTK: Tensor | None
    """Probability that a path leaves a node, without gradient; None where neither a gradient nor a term
    needs it."""
    term_B: Tensor
    """Sum over nodes of weight times divergence; 0 without a term."""
    exponent_B: Tensor
    """The same sum of the exponents, without gradient."""
    path_B: Tensor
    """Divergence of the student's paths from the teacher's; 0 without one."""


def joint_losses(
    student: Joint,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    *,
    rnnt_type: str = "regular",
    windows: Tensor | None = None,
    delay_penalty: float = 0.0,
    fast_emit: float = 0.0,
    term: NodeTerm | None = None,
    path: PathKl | None = None,
    keep_logits: bool = True,
) -> JointLosses:
    """The pruned transducer loss of an additive joiner, and divergences on the same nodes and arcs.

    The loss equals `rnnt_loss_pruned` of the joiner's logits on `do_rnnt_pruning`'s tensors. Gradients go to
    the tensors of `student` that require one. The joiner's products run in the type of `am`, which under
    autocast is a half type; everything after them runs in float32.

    Args:
        student: the joiner and its projected inputs.
        symbols: `(B, S)` int64, without a start symbol.
        ranges: `(B, T, K)` from `get_rnnt_prune_ranges`.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified | constrained.
        windows: `(B, S, 2)` int64, the frames in which each symbol may be emitted, first and one past the
            last; paths outside count neither in the loss nor in the occupation. None: anywhere.
        delay_penalty: nats per frame in favour of early symbols.
        fast_emit: the loss's derivatives by the symbols' log-probabilities are multiplied by 1 + this, those
            by the blanks' and the loss itself are not (FastEmit, Yu et al. 2021, arXiv 2010.11148).
        term: a divergence between distributions at nodes.
        path: a divergence between distributions of paths; neither windows nor a delay penalty are in it.
        keep_logits: False: make the logits a second time in the backward pass instead of keeping them.

    Returns:
        Losses of each utterance; NaN where its logits on the band are.

    Raises:
        ValueError: as `rnnt_loss_pruned`, but NaN passes through to the losses.
    """
    check_names(rnnt_type, "none", delay_penalty)
    if path is not None and path.teacher.ranges_BTK.shape != ranges.shape:
        raise ValueError(
            f"path {tuple(path.teacher.ranges_BTK.shape)}: expected a teacher on ranges {tuple(ranges.shape)}"
        )
    if windows is not None:
        check_windows(windows, symbols)
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in student)
    with torch.autocast(device_type=student.am_BTD.device.type, enabled=False):
        plan = replace(
            plan_of(student, symbols, ranges, termination_symbol, boundary, rnnt_type),
            windows=windows,
            delay_penalty=delay_penalty,
            fast_emit=fast_emit,
            keep_logits=keep_logits and (with_gradient or term is not None),
            with_gradient=with_gradient,
        )
        return JointLosses(*_JointLoss.apply(*student, plan, term, path))


class _JointLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        am: Tensor,
        lm: Tensor,
        weight: Tensor,
        bias: Tensor,
        plan: Plan,
        term: NodeTerm | None,
        path: PathKl | None,
    ) -> Any:
        """The five tensors of `JointLosses`."""
        student = Joint(am, lm, weight, bias)
        px_FK, py_FK, blocks = score_nodes(student, plan)
        px, py = plan.spread(px_FK), plan.spread(py_FK)
        band = band_totals(
            _within_windows(px, plan),
            py,
            plan.ranges_BTK,
            plan.boundary,
            plan.num_symbols,
            plan.rnnt_type,
            plan.delay_penalty,
            with_occupation=plan.with_gradient or term is not None,
        )
        divergence = None
        term_B, exponent_B = torch.zeros_like(band.scores_B), torch.zeros_like(band.scores_B)
        if term is not None:
            assert band.occupation_BTK is not None
            divergence = diverge(student, plan, term, band.occupation_BTK, blocks)
            term_B, exponent_B = divergence.sums(len(term_B))
            # The paths of an utterance whose scores are NaN weigh nothing.
            term_B = torch.where(band.scores_B.isnan(), band.scores_B, term_B)
        path_B, path_grads = torch.zeros_like(band.scores_B), list[Any]()
        if path is not None:
            path_B, *path_grads = _compare_paths(path, px, py, band, plan)
        if plan.with_gradient:
            ctx.plan, ctx.divergence, ctx.num_blocks = plan, divergence and divergence.nodes, len(blocks)
            gradients = [values.gradient_NV for values in divergence.values] if divergence else []
            normalizers = [block.normalizers_R for block in blocks]
            logits = [block.logits_RV for block in blocks]
            # Arcs first, two of each loss: symbols and blanks.
            assert band.symbol_grad_BTK is not None
            symbol_grad_BTK = band.symbol_grad_BTK * (1.0 + plan.fast_emit)
            arc_grads = (symbol_grad_BTK, band.blank_grad_BTK, *path_grads)
            ctx.num_arcs = len(arc_grads)
            ctx.save_for_backward(*student, *arc_grads, *logits, *normalizers, *gradients)
            ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(exponent_B)
        if band.occupation_BTK is not None:
            ctx.mark_non_differentiable(exponent_B, band.occupation_BTK)
        return -band.scores_B, band.occupation_BTK, term_B, exponent_B, path_B

    @staticmethod
    @first_order_only
    def backward(ctx: Any, rnnt_grad_B: Any, _: Any, term_grad_B: Any, __: Any, path_grad_B: Any) -> Any:
        if rnnt_grad_B is None and term_grad_B is None and path_grad_B is None:
            return (None,) * 7
        am, lm, weight, bias, *rest = ctx.saved_tensors
        student, plan, num_blocks = Joint(am, lm, weight, bias), ctx.plan, ctx.num_blocks
        arcs, rest = rest[: ctx.num_arcs], rest[ctx.num_arcs :]
        logits, normalizers = rest[:num_blocks], rest[num_blocks : 2 * num_blocks]
        divergences = rest[2 * num_blocks :]
        scales = (None if rnnt_grad_B is None else -rnnt_grad_B, path_grad_B)
        symbol_grad = plan.gather(_weighted_sum(arcs[0::2], scales))
        blank_grad = plan.gather(_weighted_sum(arcs[1::2], scales))
        grads = Gradients(student, ctx.needs_input_grad[:4])
        with torch.autocast(device_type=am.device.type, enabled=False):
            for i, block in enumerate(plan.blocks()):
                hidden = student.hidden_of(*plan.rows(block))
                if num_blocks:
                    scored = Block(logits[i], normalizers[i])
                else:
                    scored, _, _ = Block.scored(student.output_of(hidden), plan, block)
                gradient = scored.gradient_(plan, block, symbol_grad[block], blank_grad[block])
                if ctx.divergence is not None and term_grad_B is not None:
                    ctx.divergence.add_gradient_(gradient, divergences[i], i, term_grad_B)
                grads.add(plan, block, hidden, gradient)
        return *grads.finish(), None, None, None


def _within_windows(px_BTK: Tensor, plan: Plan) -> Tensor:
    if plan.windows is None:
        return px_BTK
    return px_BTK.masked_fill(outside_band(plan.windows, plan.ranges_BTK), -torch.inf)


def _compare_paths(path: PathKl, px_BTK: Tensor, py_BTK: Tensor, band: BandTotals, plan: Plan) -> PathValues:
    """The divergence between paths, given the recursion of the loss."""
    scores = BandScores(px_BTK, py_BTK, plan.ranges_BTK, plan.boundary, plan.num_symbols, plan.rnnt_type)
    totals = None
    if path.needs_totals:
        # Those of the loss are of tilted paths under a delay penalty, of fewer paths under windows.
        changed = plan.delay_penalty > 0.0 or plan.windows is not None
        totals = scores.totals(with_occupation=plan.with_gradient) if changed else band
    return path.evaluate(scores, totals, plan.with_gradient)


def _weighted_sum(values: Sequence[Tensor], scales_B: Sequence[Tensor | None]) -> Tensor:
    """Arcs' gradients `(B, T, K)` times what comes from above; a loss without any counts nothing."""
    parts = [
        x * scale[:, None, None] for x, scale in zip(values, scales_B, strict=False) if scale is not None
    ]
    if not parts:
        return torch.zeros_like(values[0])
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
