"""Joiner, pruned transducer loss and a divergence to a teacher in one pass over the lattice's nodes.

The joiner is the additive one, `tanh(am + lm) W^T + b`. Its logits are made for a block of frames at a time
and used where they stand: their log-softmax exists for one block only, and the gradient of a block goes
through the joiner before the next one is made. What is kept between forward and backward is one tensor of
logits, or none (`keep_logits=False`: made a second time), and of a divergence its gradient at the nodes that
have weight: a few of a frame's K states once the student can align. It is added to the loss's gradient before
the one product with W.

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes, D joiner width; F valid frames
of all utterances, R = F * K nodes in that order, N nodes with weight.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.blocks import Block, Gradients, Plan, score_nodes, valid_frames
from kdasr.losses.first_order import first_order_only
from kdasr.losses.joiner import Joint
from kdasr.losses.nodes import NodeTerm, diverge
from kdasr.losses.pruned_rnnt.band import band_totals
from kdasr.losses.pruned_rnnt.checks import check_boundary, check_names, check_ranges, check_symbols
from kdasr.losses.pruned_rnnt.pruned import symbols_of_nodes


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


def joint_losses(
    student: Joint,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    *,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    term: NodeTerm | None = None,
    keep_logits: bool = True,
) -> JointLosses:
    """The pruned transducer loss of an additive joiner, and a divergence on the same nodes.

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
        delay_penalty: nats per frame in favour of early symbols.
        term: the divergence.
        keep_logits: False: make the logits a second time in the backward pass instead of keeping them.

    Returns:
        Losses of each utterance; NaN where its logits on the band are.

    Raises:
        ValueError: as `rnnt_loss_pruned`, but NaN passes through to the losses.
    """
    check_names(rnnt_type, "none", delay_penalty)
    am, lm = student.am_BTD, student.lm_BSD
    check_ranges(ranges, symbols.shape[-1])
    _check_joint(student, ranges)
    batch, num_frames, _ = ranges.shape
    check_symbols(symbols, batch, student.weight_VD.shape[0], termination_symbol, lm.shape[1])
    check_boundary(boundary, batch, symbols.shape[1], num_frames, from_origin=True)
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in student)
    with torch.autocast(device_type=am.device.type, enabled=False):
        ranges, boundary = ranges.long(), None if boundary is None else boundary.to(am.device).long()
        frames_F, states_FK = valid_frames(ranges, boundary, lm.shape[1])
        symbols_BTK = symbols_of_nodes(symbols, ranges, termination_symbol)
        plan = Plan(
            frames_F=frames_F,
            states_FK=states_FK,
            symbols_FK=symbols_BTK.flatten(0, 1).index_select(0, frames_F),
            ranges_BTK=ranges,
            boundary=boundary,
            num_symbols=symbols.shape[1],
            blank=termination_symbol,
            rnnt_type=rnnt_type,
            delay_penalty=delay_penalty,
            keep_logits=keep_logits and (with_gradient or term is not None),
            with_gradient=with_gradient,
        )
        return JointLosses(*_JointLoss.apply(*student, plan, term))


def _check_joint(student: Joint, ranges: Tensor) -> None:
    am, lm, weight, bias = student
    if am.ndim != 3 or lm.ndim != 3 or am.shape[:2] != ranges.shape[:2] or lm.shape[0] != am.shape[0]:
        raise ValueError(
            f"am {tuple(am.shape)} and lm {tuple(lm.shape)}: "
            f"expected (B, T, D) and (B, S + 1, D) with ranges {tuple(ranges.shape)} (B, T, K)"
        )
    width = am.shape[2]
    if lm.shape[2] != width or weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(
            f"am {tuple(am.shape)}, lm {tuple(lm.shape)}, weight {tuple(weight.shape)}: expected one width D"
        )
    if bias is None or bias.shape != weight.shape[:1]:
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(f"bias {shape}: expected ({weight.shape[0]},)")


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
    ) -> Any:
        """The four tensors of `JointLosses`."""
        student = Joint(am, lm, weight, bias)
        px, py, blocks = score_nodes(student, plan)
        band = band_totals(
            plan.spread(px),
            plan.spread(py),
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
        if plan.with_gradient:
            ctx.plan, ctx.divergence, ctx.num_blocks = plan, divergence and divergence.nodes, len(blocks)
            gradients = [values.gradient_NV for values in divergence.values] if divergence else []
            normalizers = [block.normalizers_R for block in blocks]
            logits = [block.logits_RV for block in blocks]
            band_grads = (band.symbol_grad_BTK, band.blank_grad_BTK)
            ctx.save_for_backward(*student, *band_grads, *logits, *normalizers, *gradients)
            ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(exponent_B)
        if band.occupation_BTK is not None:
            ctx.mark_non_differentiable(exponent_B, band.occupation_BTK)
        return -band.scores_B, band.occupation_BTK, term_B, exponent_B

    @staticmethod
    @first_order_only
    def backward(ctx: Any, rnnt_grad_B: Any, _: Any, term_grad_B: Any, __: Any) -> Any:
        if rnnt_grad_B is None and term_grad_B is None:
            return (None,) * 6
        am, lm, weight, bias, symbol_grad_BTK, blank_grad_BTK, *rest = ctx.saved_tensors
        student, plan, num_blocks = Joint(am, lm, weight, bias), ctx.plan, ctx.num_blocks
        logits, normalizers = rest[:num_blocks], rest[num_blocks : 2 * num_blocks]
        divergences = rest[2 * num_blocks :]
        scale = torch.zeros_like(term_grad_B) if rnnt_grad_B is None else -rnnt_grad_B
        symbol_grad = plan.gather(symbol_grad_BTK * scale[:, None, None])
        blank_grad = plan.gather(blank_grad_BTK * scale[:, None, None])
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
        return *grads.finish(), None, None
