"""Joiner, pruned transducer loss and any number of divergences in one pass over the lattice's nodes.

The joiner is the additive one, `tanh(am + lm) W^T + b`. Its logits are made for a block of frames at a time
and used where they stand: their log-softmax exists for one block only, and the gradient of a block goes
through the joiner before the next one is made. What is kept between forward and backward is one tensor of
logits, or none (`keep_logits=False`: made again for each use), and of each divergence between nodes its
gradient at the nodes that have weight: a few of a frame's K states once the student can align. It is added to
the loss's gradient before the one product with W. A divergence between paths is a further gradient of the
same arcs.

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes, D joiner width; F valid frames
of all utterances, R = F * K nodes in that order, N nodes with weight.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.blocks import Block, Gradients, LatticePlan, UsedNodes, plan_of, score_nodes
from kdasr.losses.lattice.first_order import first_order_only
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.nodes import Divergence, NodeTerm, diverge
from kdasr.losses.lattice.path_kl import PathTerm, PathValues
from kdasr.losses.lattice.teacher_band import BandScores
from kdasr.losses.pruned_rnnt.band import BandTotals, band_totals
from kdasr.losses.pruned_rnnt.checks import check_names
from kdasr.losses.pruned_rnnt.windows import check_windows, outside_band


class NodeLosses(NamedTuple):
    """What a divergence between nodes gives."""

    value_B: Tensor
    """Sum over nodes of weight times divergence."""
    exponent_B: Tensor
    """The same sum of the exponents, without gradient."""


class JointLosses(NamedTuple):
    """What one pass gives."""

    rnnt_B: Tensor
    """Pruned transducer loss in nats; inf where no path stays in the band."""
    nodes: tuple[NodeLosses, ...] = ()
    """Of each divergence between nodes, in order."""
    paths: tuple[Tensor, ...] = ()
    """Of each divergence between paths, in order: the student's from the teacher's, `(B,)`."""
    occupation_BTK: Tensor | None = None
    """Probability that a path leaves a node, without gradient; None where neither a gradient nor a divergence
    between nodes needs it."""


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
    nodes: Sequence[NodeTerm] = (),
    paths: Sequence[PathTerm] = (),
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
        delay_penalty: nats per frame in favor of early symbols.
        fast_emit: the loss's derivatives by the symbols' log-probabilities are multiplied by 1 + this, those
            by the blanks' and the loss itself are not (FastEmit, Yu et al. 2021, arXiv 2010.11148).
        nodes: divergences between distributions at nodes.
        paths: divergences between distributions of paths; neither windows nor a delay penalty are in them.
        keep_logits: False: make the logits again in the backward pass, and for each of `nodes`, instead of
            keeping them.

    Returns:
        Losses of each utterance; NaN where its logits on the band are.

    Raises:
        ValueError: as `rnnt_loss_pruned`, but NaN passes through to the losses.
    """
    check_names(rnnt_type, "none", delay_penalty)
    for path in paths:
        if path.band_shape != ranges.shape:
            raise ValueError(f"path {path.band_shape}: expected a teacher on ranges {tuple(ranges.shape)}")
    if windows is not None:
        check_windows(windows, symbols)
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in student)
    with torch.autocast(device_type=student.am_BTD.device.type, enabled=False):
        plan = replace(
            plan_of(student, symbols, ranges, termination_symbol, boundary, rnnt_type),
            windows=windows,
            delay_penalty=delay_penalty,
            fast_emit=fast_emit,
            keep_logits=keep_logits and (with_gradient or bool(nodes)),
            with_gradient=with_gradient,
        )
        outputs = iter(_JointLoss.apply(*student, _Inputs(plan, tuple(nodes), tuple(paths))))
        rnnt_B, occupation_BTK = next(outputs), next(outputs)
        return JointLosses(
            rnnt_B,
            nodes=tuple(NodeLosses(next(outputs), next(outputs)) for _ in nodes),
            paths=tuple(next(outputs) for _ in paths),
            occupation_BTK=occupation_BTK,
        )


class _Inputs(NamedTuple):
    plan: LatticePlan
    nodes: tuple[NodeTerm, ...]
    paths: tuple[PathTerm, ...]


class _JointLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, am: Tensor, lm: Tensor, weight: Tensor, bias: Tensor, inputs: _Inputs) -> Any:
        """The loss, the occupation, value and exponent of each divergence between nodes, then the value of
        each divergence between paths."""
        student, plan = Joint(am, lm, weight, bias), inputs.plan
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
            with_occupation=plan.with_gradient or bool(inputs.nodes),
        )
        divergences, node_losses = list[Divergence](), list[Tensor]()
        for term in inputs.nodes:
            assert band.occupation_BTK is not None
            divergences.append(diverge(student, plan, term, band.occupation_BTK, blocks))
            value_B, exponent_B = divergences[-1].sums(len(band.scores_B))
            # The paths of an utterance whose scores are NaN weigh nothing.
            node_losses += [torch.where(band.scores_B.isnan(), band.scores_B, value_B), exponent_B]
        compared = [_compare_paths(path, px, py, band, plan) for path in inputs.paths]
        if plan.with_gradient:
            _save(ctx, student, inputs, band, blocks, divergences, compared)
        without_gradient = node_losses[1::2]
        if band.occupation_BTK is not None:
            without_gradient.append(band.occupation_BTK)
        ctx.mark_non_differentiable(*without_gradient)
        return -band.scores_B, band.occupation_BTK, *node_losses, *(values.value_B for values in compared)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, rnnt_grad_B: Any, _: Any, *term_grads: Any) -> Any:
        node_grads, path_grads = term_grads[: 2 * ctx.num_nodes : 2], term_grads[2 * ctx.num_nodes :]
        if all(grad is None for grad in (rnnt_grad_B, *node_grads, *path_grads)):
            return (None,) * 5
        tensors = iter(ctx.saved_tensors)
        joint, symbol_arcs, blank_arcs, logits, normalizers, *divergences = (
            [next(tensors) for _ in range(size)] for size in ctx.group_sizes
        )
        student, plan = Joint(*joint), ctx.plan
        scales = (None if rnnt_grad_B is None else -rnnt_grad_B, *path_grads)
        symbol_grad = plan.gather(_weighted_sum(symbol_arcs, scales))
        blank_grad = plan.gather(_weighted_sum(blank_arcs, scales))
        grads = Gradients(student, ctx.needs_input_grad[:4])
        with torch.autocast(device_type=student.am_BTD.device.type, enabled=False):
            for i, block in enumerate(plan.blocks()):
                terms = [
                    (weighted, values[i], grad_B)
                    for weighted, values, grad_B in zip(ctx.weighted, divergences, node_grads, strict=True)
                    if grad_B is not None
                ]
                others = [weighted.rows_N[weighted.part(i)] for weighted, _, _ in terms]
                used = UsedNodes.of(plan, block, symbol_grad, blank_grad, others)
                hidden = student.hidden_of(used.frames_R, used.states_R)
                if logits:
                    scored = Block(logits[i], normalizers[i]).of(used)
                else:
                    scored, _, _ = Block.scored(student.output_of(hidden), used.symbols_R, plan.blank)
                gradient = scored.gradient_(used, plan.blank)
                for weighted, values_NV, grad_B in terms:
                    weighted.add_gradient_(gradient, values_NV, i, grad_B, used)
                grads.add(used, hidden, gradient)
        return *grads.finish(), None


def _save(
    ctx: Any,
    student: Joint,
    inputs: _Inputs,
    band: BandTotals,
    blocks: Sequence[Block],
    divergences: Sequence[Divergence],
    compared: Sequence[PathValues],
) -> None:
    """Keep for `backward`: the student, the arcs' gradients of the loss and of each divergence between paths,
    the blocks, and each divergence's gradients at nodes."""
    assert band.symbol_grad_BTK is not None
    groups: list[Sequence[Any]] = [
        student,
        [band.symbol_grad_BTK * (1.0 + inputs.plan.fast_emit), *(x.symbol_grad_BTK for x in compared)],
        [band.blank_grad_BTK, *(x.blank_grad_BTK for x in compared)],
        [block.logits_RV for block in blocks],
        [block.normalizers_R for block in blocks],
        *([values.gradient_NV for values in divergence.values] for divergence in divergences),
    ]
    ctx.plan, ctx.num_nodes = inputs.plan, len(inputs.nodes)
    ctx.weighted = [divergence.nodes for divergence in divergences]
    ctx.group_sizes = [len(group) for group in groups]
    ctx.save_for_backward(*(tensor for group in groups for tensor in group))
    ctx.set_materialize_grads(False)


def _within_windows(px_BTK: Tensor, plan: LatticePlan) -> Tensor:
    if plan.windows is None:
        return px_BTK
    return px_BTK.masked_fill(outside_band(plan.windows, plan.ranges_BTK), -torch.inf)


def _compare_paths(
    path: PathTerm, px_BTK: Tensor, py_BTK: Tensor, band: BandTotals, plan: LatticePlan
) -> PathValues:
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
    parts = [x * scale[:, None, None] for x, scale in zip(values, scales_B, strict=True) if scale is not None]
    return sum(parts[1:], start=parts[0]) if parts else torch.zeros_like(values[0])
