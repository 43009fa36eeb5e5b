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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.losses.first_order import first_order_only
from kdasr.losses.kernels import node_kernels
from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import node_log_probs, softmax_to_gradient_
from kdasr.losses.pruned_rnnt.band import band_totals
from kdasr.losses.pruned_rnnt.checks import check_boundary, check_names, check_ranges, check_symbols
from kdasr.losses.pruned_rnnt.pruned import symbols_of_nodes
from kdasr.nn.linear import linear_product, transposed_product

_NODES_AT_ONCE = {"cpu": 1024, "gpu": 1 << 17}
"""Small enough for a core's cache; on a GPU, large enough that launches do not count."""

MIN_WEIGHT = 1e-7
"""A term's weight at or below which a node is left out on the CPU. Weights sum to 1 over an utterance, so
float32 cannot tell."""


class Joint(NamedTuple):
    """What an additive joiner's logits are made of: `tanh(am + lm) weight^T + bias`."""

    am_BTD: Tensor
    """Projected encoder output."""
    lm_BSD: Tensor
    """Projected predictor output, `(B, S + 1, D)`."""
    weight_VD: Tensor
    bias_V: Tensor

    def hidden_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Hidden layer of nodes, given as rows of the flattened `am` and `lm`, `(N, D)`; no gradient."""
        hidden = self.am_BTD.flatten(0, 1).index_select(0, frames_N)
        return _tanh_(hidden.add_(self.lm_BSD.flatten(0, 1).index_select(0, states_N)))

    def output_of(self, hidden_ND: Tensor) -> Tensor:
        """Logits `(N, V)` of a hidden layer, float32 or float64; no gradient."""
        weight, bias = self.weight_VD.to(hidden_ND.dtype), self.bias_V.to(hidden_ND.dtype)
        return as_float(linear_product(hidden_ND, weight, bias))

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Logits `(N, V)` of nodes, as `hidden_of` takes them."""
        return self.output_of(self.hidden_of(frames_N, states_N))


class Nodes(NamedTuple):
    """Lattice nodes with weight."""

    utterances_N: Tensor
    frames_N: Tensor
    """Rows of the flattened `(B * T, D)` encoder output."""
    states_N: Tensor
    """Rows of the flattened `(B * (S + 1), D)` predictor output."""
    weights_N: Tensor

    def part(self, begin: int, end: int) -> "Nodes":
        """Some of them, in order."""
        return Nodes(*(x[begin:end] for x in self))


class NodeValues(NamedTuple):
    """A divergence at some nodes."""

    value_N: Tensor
    """Nats, not weighted."""
    gradient_NV: Tensor | None
    """Derivative of `weight * value` by the student's logits; None when it was not asked for."""
    exponent_N: Tensor
    """How far the target was smoothed: 1 not at all."""


class NodeTerm(Protocol):
    """A divergence between the student's distribution at lattice nodes and a target, with its gradient."""

    def weigh(self, occupation_BTK: Tensor) -> Tensor:
        """Weights of the nodes `(B, T, K)`, which sum to 1 over an utterance or are all 0.

        `occupation_BTK`: how often the student's paths leave each node, without gradient.
        """
        ...

    def begin(self, nodes: Nodes) -> None:
        """See all nodes once, before `evaluate` gets them part by part in the same order."""
        ...

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        """The divergence at some nodes, given the student's logits there."""
        ...


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


@dataclass(frozen=True)
class _Plan:
    """Which nodes are evaluated, and with what."""

    frames_F: Tensor
    states_FK: Tensor
    symbols_FK: Tensor
    ranges_BTK: Tensor
    boundary: Tensor | None
    num_symbols: int
    blank: int
    rnnt_type: str
    delay_penalty: float
    keep_logits: bool
    with_gradient: bool

    def blocks(self) -> Iterator[slice]:
        """Slices of F."""
        num_frames, num_kept = self.states_FK.shape
        place = "cpu" if self.frames_F.device.type == "cpu" else "gpu"
        size = max(_NODES_AT_ONCE[place] // max(num_kept, 1), 1)
        return (slice(begin, min(begin + size, num_frames)) for begin in range(0, num_frames, size))

    def spread(self, values_FK: Tensor) -> Tensor:
        """Values of the valid frames as `(B, T, K)`, 0 elsewhere."""
        batch, num_frames, num_kept = self.ranges_BTK.shape
        spread = values_FK.new_zeros((batch * num_frames, num_kept))
        return spread.index_copy_(0, self.frames_F, values_FK).view(batch, num_frames, num_kept)

    def rows(self, block: slice) -> tuple[Tensor, Tensor]:
        """A block's nodes as rows of the flattened encoder and predictor outputs."""
        states_FK = self.states_FK[block]
        return self.frames_F[block].repeat_interleave(states_FK.shape[1]), states_FK.flatten()

    def gather(self, values_BTK: Tensor) -> Tensor:
        """Values of the valid frames, `(F, K)`."""
        return values_BTK.flatten(0, 1).index_select(0, self.frames_F)


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
        frames_F, states_FK = _valid_frames(ranges, boundary, lm.shape[1])
        symbols_BTK = symbols_of_nodes(symbols, ranges, termination_symbol)
        plan = _Plan(
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


def _valid_frames(ranges: Tensor, boundary: Tensor | None, num_states: int) -> tuple[Tensor, Tensor]:
    """Rows of the flattened encoder output `(F,)`, and of the predictor output `(F, K)`."""
    batch, num_frames, _ = ranges.shape
    rows = ranges + num_states * torch.arange(batch, device=ranges.device)[:, None, None]
    if boundary is None or ranges.is_cuda:
        # Counting the valid frames would make the CPU wait for the GPU.
        return torch.arange(batch * num_frames, device=ranges.device), rows.flatten(0, 1)
    frames = torch.arange(num_frames, device=ranges.device)
    valid_F = (frames < boundary[:, 3:4]).flatten().nonzero().squeeze(1)
    return valid_F, rows.flatten(0, 1).index_select(0, valid_F)


def _tanh_(values: Tensor) -> Tensor:
    """tanh in place, within 2e-7: on the CPU torch's logistic function is ten times as fast as its tanh."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.tanh_()
    return values.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


class _JointLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        am: Tensor,
        lm: Tensor,
        weight: Tensor,
        bias: Tensor,
        plan: _Plan,
        term: NodeTerm | None,
    ) -> Any:
        """The four tensors of `JointLosses`."""
        student = Joint(am, lm, weight, bias)
        px, py, blocks = _score(student, plan)
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
            divergence = _diverge(student, plan, term, band.occupation_BTK, blocks)
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
        grads = _Gradients(student, ctx.needs_input_grad[:4])
        with torch.autocast(device_type=am.device.type, enabled=False):
            for i, block in enumerate(plan.blocks()):
                hidden = student.hidden_of(*plan.rows(block))
                if num_blocks:
                    scored = _Block(logits[i], normalizers[i])
                else:
                    scored, _, _ = _Block.scored(student.output_of(hidden), plan, block)
                gradient = scored.gradient_(plan, block, symbol_grad[block], blank_grad[block])
                if ctx.divergence is not None and term_grad_B is not None:
                    ctx.divergence.add_gradient_(gradient, divergences[i], i, term_grad_B)
                grads.add(plan, block, hidden, gradient)
        return *grads.finish(), None, None


@dataclass
class _Block:
    """The logits of a block of frames."""

    logits_RV: Tensor
    normalizers_R: Tensor | None
    """Only the kernels want them again."""

    @classmethod
    def scored(cls, logits_RV: Tensor, plan: _Plan, block: slice) -> tuple["_Block", Tensor, Tensor]:
        """The block, and the log-probabilities of its nodes' symbols and blanks."""
        symbols_R = plan.symbols_FK[block].flatten()
        kernels = node_kernels(logits_RV)
        if kernels:
            px_R, py_R, normalizers_R = kernels.node_scores(logits_RV, symbols_R, plan.blank)
            return cls(logits_RV, normalizers_R), px_R, py_R
        return cls(logits_RV, None), *node_log_probs(logits_RV, symbols_R, plan.blank)

    def gradient_(self, plan: _Plan, block: slice, symbol_FK: Tensor, blank_FK: Tensor) -> Tensor:
        """The gradient of the logits given that of the scores; with kernels it takes their place."""
        symbols_R, symbol_R, blank_R = (
            plan.symbols_FK[block].flatten(),
            symbol_FK.flatten(),
            blank_FK.flatten(),
        )
        kernels = node_kernels(self.logits_RV)
        if not kernels:
            probs_RV = torch.softmax(self.logits_RV, dim=-1)
            return softmax_to_gradient_(probs_RV, symbols_R, plan.blank, symbol_R, blank_R)
        # A kernel's writes are unknown to autograd, which has to refuse a second backward pass.
        torch.autograd.graph.increment_version(self.logits_RV)
        logits_RV = self.logits_RV.detach()
        return kernels.node_gradient_(logits_RV, symbols_R, plan.blank, self.normalizers_R, symbol_R, blank_R)


def _score(student: Joint, plan: _Plan) -> tuple[Tensor, Tensor, list[_Block]]:
    """Log-probabilities of the nodes' symbols and blanks `(F, K)`, and the blocks if they are kept."""
    kept: list[_Block] = []
    scores = [as_float(student.am_BTD.new_zeros((2, 0)))]
    for block in plan.blocks():
        logits_RV = student.logits_of(*plan.rows(block))
        scored, px_R, py_R = _Block.scored(logits_RV, plan, block)
        scores.append(torch.stack((px_R, py_R)))
        if plan.keep_logits:
            kept.append(scored)
    px, py = torch.cat(scores, dim=1).view(2, *plan.states_FK.shape).unbind(0)
    return px, py, kept


class _Gradients:
    """Sums over blocks, in the losses' type, of the tensors that need them."""

    def __init__(self, student: Joint, needed: Sequence[bool]) -> None:
        self.student = student
        dtype = torch.float64 if student.am_BTD.dtype == torch.float64 else torch.float32
        self.sums = [
            torch.zeros(tensor.shape, dtype=dtype, device=tensor.device) if wanted else None
            for tensor, wanted in zip(student, needed, strict=True)
        ]

    def add(self, plan: _Plan, block: slice, hidden: Tensor, gradient: Tensor) -> None:
        """Take a block's gradient of the logits through the joiner."""
        am, lm, weight, bias = self.sums
        if bias is not None:
            bias += gradient.sum(0)
        gradient = gradient.to(hidden.dtype)
        if weight is not None:
            weight += transposed_product(gradient, hidden)
        if am is None and lm is None:
            return
        weight_DV = self.student.weight_VD.to(hidden.dtype).t()
        inputs = as_float(torch.ops.aten.tanh_backward(linear_product(gradient, weight_DV), hidden))
        states_FK = plan.states_FK[block]
        if lm is not None:
            lm.flatten(0, 1).index_add_(0, states_FK.flatten(), inputs)
        if am is not None:
            am.flatten(0, 1).index_copy_(0, plan.frames_F[block], inputs.view(*states_FK.shape, -1).sum(1))

    def finish(self) -> list[Tensor | None]:
        """In the order and types of the joint's tensors."""
        return [
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(self.sums, self.student, strict=True)
        ]


@dataclass
class _WeightedNodes:
    """The nodes that have weight, and where they stand in the blocks."""

    nodes: Nodes
    rows_N: Tensor
    """Each node's row in its block."""
    ends: list[int]
    """Where each block's nodes end."""

    def add_gradient_(self, gradient: Tensor, term_NV: Tensor, block: int, term_grad_B: Tensor) -> None:
        """Add the term's gradient to a block's, times what comes from above."""
        part = slice(self.ends[block - 1] if block else 0, self.ends[block])
        scale = term_grad_B[self.nodes.utterances_N[part]]
        gradient.index_add_(0, self.rows_N[part], term_NV * scale[:, None])


@dataclass
class _Divergence:
    """A term's values and gradients, block by block."""

    nodes: _WeightedNodes
    values: list[NodeValues]

    def sums(self, batch: int) -> tuple[Tensor, Tensor]:
        """Weighted sums of values and exponents, `(B,)` each."""
        nodes = self.nodes.nodes
        sums = nodes.weights_N.new_zeros((2, batch))
        if self.values:
            both = torch.stack(
                [torch.cat([getattr(v, name) for v in self.values]) for name in ("value_N", "exponent_N")]
            )
            sums.index_add_(1, nodes.utterances_N, both * nodes.weights_N)
        return sums[0], sums[1]


def _diverge(
    student: Joint, plan: _Plan, term: NodeTerm, occupation_BTK: Tensor, blocks: list[_Block]
) -> _Divergence:
    weighted = _nodes_with_weight(plan, term.weigh(occupation_BTK), student.lm_BSD.shape[1])
    term.begin(weighted.nodes)
    values, begin = [], 0
    for i, end in enumerate(weighted.ends):
        part = weighted.nodes.part(begin, end)
        if blocks:
            student_NV = blocks[i].logits_RV
            if not student_NV.is_cuda:
                student_NV = student_NV.index_select(0, weighted.rows_N[begin:end])
        else:
            student_NV = student.logits_of(part.frames_N, part.states_N)
        values.append(term.evaluate(student_NV, part, plan.with_gradient))
        begin = end
    return _Divergence(weighted, values)


def _nodes_with_weight(plan: _Plan, weights_BTK: Tensor, num_states: int) -> _WeightedNodes:
    num_kept = plan.states_FK.shape[1]
    weights_R = plan.gather(weights_BTK).flatten()
    bounds = [block.stop * num_kept for block in plan.blocks()]
    if weights_R.is_cuda:
        # Counting them would make the CPU wait; the kernels skip rows without weight.
        chosen_N, ends = torch.arange(len(weights_R), device=weights_R.device), bounds
    else:
        chosen_N = (weights_R > MIN_WEIGHT).nonzero().squeeze(1)
        ends = torch.searchsorted(chosen_N, torch.tensor(bounds)).tolist()
    states_N = plan.states_FK.flatten()[chosen_N]
    nodes = Nodes(
        utterances_N=torch.div(states_N, num_states, rounding_mode="floor"),
        frames_N=plan.frames_F[torch.div(chosen_N, num_kept, rounding_mode="floor")],
        states_N=states_N,
        weights_N=weights_R[chosen_N],
    )
    rows_N, begin, row = chosen_N.clone(), 0, 0
    for end, bound in zip(ends, bounds, strict=True):
        rows_N[begin:end] -= row
        begin, row = end, bound
    return _WeightedNodes(nodes, rows_N, ends)
