"""Joiner, pruned transducer loss and a divergence to a teacher in one pass over the lattice's nodes.

The joiner is the additive one, `tanh(am + lm) W^T + b`. Its logits are made for a block of frames at a time
and used where they stand: their log-softmax exists for one block only, and the gradient of a block goes
through the joiner before the next one is made. What is kept between forward and backward is one tensor of
logits, or none (`keep_logits=False`: made a second time). The divergence is evaluated where its nodes have
weight, at most a few of a frame's K states once the student can align, and adds its gradient to the loss's
before the one product with W.

Shapes: B utterances, S symbols, T frames, K states kept per frame, V classes, D joiner width; F valid frames
of all utterances, R = F * K nodes in that order, N nodes with weight.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

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
"""Share of an utterance's weight below which a node is left out on the CPU: float32 cannot tell."""


class Joint(NamedTuple):
    """What an additive joiner's logits are made of: `tanh(am + lm) weight^T + bias`."""

    am_BTD: Tensor
    """Projected encoder output."""
    lm_BSD: Tensor
    """Projected predictor output, `(B, S + 1, D)`."""
    weight_VD: Tensor
    bias_V: Tensor

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Logits of nodes, given as rows of the flattened `am` and `lm`, `(N, V)`; no gradient."""
        hidden = self.lm_BSD.flatten(0, 1).index_select(0, states_N)
        hidden += self.am_BTD.flatten(0, 1).index_select(0, frames_N)
        weight, bias = self.weight_VD.to(hidden.dtype), self.bias_V.to(hidden.dtype)
        return linear_product(_tanh_(hidden), weight, bias)


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
    gradient_NV: Tensor
    """Derivative of `weight * value` by the student's logits."""
    exponent_N: Tensor
    """How far the target was smoothed: 1 not at all."""


class NodeTerm(Protocol):
    """A divergence between the student's distribution at lattice nodes and a target, with its gradient."""

    def weigh(self, occupation_BTK: Tensor) -> Tensor:
        """Weight of every node `(B, T, K)`, given how often the student's paths pass through it."""
        ...

    def begin(self, nodes: Nodes) -> None:
        """See all nodes once, before `evaluate` gets them part by part in the same order."""
        ...

    def evaluate(self, student_NV: Tensor, nodes: Nodes) -> NodeValues:
        """The divergence at some nodes, given the student's logits there."""
        ...


class JointLosses(NamedTuple):
    """What one pass gives."""

    rnnt_B: Tensor
    """Pruned transducer loss in nats; inf where no path stays in the band."""
    occupation_BTK: Tensor
    """Probability that a path leaves a node, without gradient."""
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
    all four tensors of `student`. The joiner's products run in the type of `am`, which under autocast is a
    half type; everything after them runs in float32.

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

    Raises:
        ValueError: as `rnnt_loss_pruned`, but NaN passes through to the losses.
    """
    check_names(rnnt_type, "none")
    am, lm = student.am_BTD, student.lm_BSD
    batch, num_frames, _ = ranges.shape
    if am.shape[:2] != (batch, num_frames) or lm.shape[0] != batch or am.shape[2] != lm.shape[2]:
        raise ValueError(
            f"am {tuple(am.shape)} and lm {tuple(lm.shape)} do not fit together, "
            f"or not to ranges {tuple(ranges.shape)}"
        )
    check_symbols(symbols, batch, student.weight_VD.shape[0], termination_symbol, lm.shape[1])
    check_boundary(boundary, batch, symbols.shape[1], num_frames)
    check_ranges(ranges, symbols.shape[1])
    with torch.autocast(device_type=am.device.type, enabled=False):
        boundary = None if boundary is None else boundary.to(am.device)
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
            keep_logits=keep_logits,
        )
        return JointLosses(*_JointLoss.apply(*student, plan, term))


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


def _hidden(student: Joint, plan: _Plan, block: slice) -> Tensor:
    """The joiner's hidden layer of a block of frames, `(nodes, D)`."""
    states_FK = plan.states_FK[block]
    hidden = student.lm_BSD.flatten(0, 1).index_select(0, states_FK.flatten())
    am_FD = student.am_BTD.flatten(0, 1).index_select(0, plan.frames_F[block])
    hidden.view(*states_FK.shape, -1).add_(am_FD.unsqueeze(1))
    return _tanh_(hidden)


def _tanh_(values: Tensor) -> Tensor:
    """tanh in place, within 2e-7: on the CPU torch's logistic function is ten times as fast as its tanh."""
    if values.device.type != "cpu":
        return values.tanh_()
    return values.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)


def _output(student: Joint, hidden: Tensor) -> Tensor:
    """Logits, float32 or float64."""
    weight, bias = student.weight_VD.to(hidden.dtype), student.bias_V.to(hidden.dtype)
    return as_float(linear_product(hidden, weight, bias))


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
        px, py, kept = _score(student, plan)
        band = band_totals(
            plan.spread(px),
            plan.spread(py),
            plan.ranges_BTK,
            plan.boundary,
            plan.num_symbols,
            plan.rnnt_type,
            plan.delay_penalty,
        )
        ctx.divergence = None
        term_B, exponent_B = torch.zeros_like(band.scores_B), torch.zeros_like(band.scores_B)
        if term is not None:
            ctx.divergence = _diverge(student, plan, term, band.occupation_BTK, kept)
            term_B, exponent_B = ctx.divergence.sums(len(term_B))
        ctx.save_for_backward(am, lm, weight, bias, band.symbol_grad_BTK, band.blank_grad_BTK)
        ctx.plan, ctx.kept = plan, kept
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(band.occupation_BTK, exponent_B)
        return -band.scores_B, band.occupation_BTK, term_B, exponent_B

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, rnnt_grad_B: Any, _: Any, term_grad_B: Any, __: Any) -> Any:
        *tensors, symbol_grad_BTK, blank_grad_BTK = ctx.saved_tensors
        student, plan = Joint(*tensors), ctx.plan
        scale = -(rnnt_grad_B if rnnt_grad_B is not None else torch.zeros_like(symbol_grad_BTK[:, 0, 0]))
        grads = _Gradients.zeros(student)
        symbol_grad = plan.gather(symbol_grad_BTK * scale[:, None, None])
        blank_grad = plan.gather(blank_grad_BTK * scale[:, None, None])
        for i, block in enumerate(plan.blocks()):
            hidden = _hidden(student, plan, block)
            scored = ctx.kept[i] if plan.keep_logits else _Scored.of(_output(student, hidden), plan, block)
            gradient = scored.gradient(plan, block, symbol_grad[block].flatten(), blank_grad[block].flatten())
            if ctx.divergence is not None and term_grad_B is not None:
                ctx.divergence.add_gradient_(gradient, i, term_grad_B)
            grads.add(student, plan, block, hidden, gradient)
        return *grads.finish(student), None, None


@dataclass
class _Scored:
    """A block's logits and what the loss needs of them."""

    logits_RV: Tensor
    px_R: Tensor
    py_R: Tensor
    normalizers_R: Tensor | None
    """Only the kernels want them again."""

    @classmethod
    def of(cls, logits_RV: Tensor, plan: _Plan, block: slice) -> "_Scored":
        symbols_R = plan.symbols_FK[block].flatten()
        kernels = node_kernels(logits_RV)
        if kernels:
            return cls(logits_RV, *kernels.node_scores(logits_RV, symbols_R, plan.blank))
        return cls(logits_RV, *node_log_probs(logits_RV, symbols_R, plan.blank), None)

    def gradient(self, plan: _Plan, block: slice, symbol_grad_R: Tensor, blank_grad_R: Tensor) -> Tensor:
        """The gradient of the logits; with kernels it takes their place, so only once."""
        symbols_R = plan.symbols_FK[block].flatten()
        kernels = node_kernels(self.logits_RV)
        if not kernels:
            probs_RV = torch.softmax(self.logits_RV, dim=-1)
            return softmax_to_gradient_(probs_RV, symbols_R, plan.blank, symbol_grad_R, blank_grad_R)
        if self.normalizers_R is None:
            raise RuntimeError("the gradient of these losses was taken already; it can be taken once")
        normalizers_R, self.normalizers_R = self.normalizers_R, None
        return kernels.node_gradient_(
            self.logits_RV, symbols_R, plan.blank, normalizers_R, symbol_grad_R, blank_grad_R
        )


def _score(student: Joint, plan: _Plan) -> tuple[Tensor, Tensor, list[_Scored]]:
    """Log-probabilities of the nodes' symbols and blanks `(F, K)`, and the blocks if they are kept."""
    kept: list[_Scored] = []
    scores = [as_float(student.am_BTD.new_zeros((2, 0)))]
    for block in plan.blocks():
        scored = _Scored.of(_output(student, _hidden(student, plan, block)), plan, block)
        scores.append(torch.stack((scored.px_R, scored.py_R)))
        if plan.keep_logits:
            kept.append(scored)
    px, py = torch.cat(scores, dim=1).view(2, *plan.states_FK.shape).unbind(0)
    return px, py, kept


@dataclass
class _Gradients:
    """Sums over blocks, in the losses' type."""

    am: Tensor
    lm: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def zeros(cls, student: Joint) -> "_Gradients":
        dtype = torch.float64 if student.am_BTD.dtype == torch.float64 else torch.float32
        flat = (student.am_BTD.flatten(0, 1), student.lm_BSD.flatten(0, 1), student.weight_VD, student.bias_V)
        return cls(*(torch.zeros_like(x, dtype=dtype, memory_format=torch.contiguous_format) for x in flat))

    def add(self, student: Joint, plan: _Plan, block: slice, hidden: Tensor, gradient: Tensor) -> None:
        """Take a block's gradient of the logits through the joiner."""
        self.bias += gradient.sum(0)
        gradient = gradient.to(hidden.dtype)
        self.weight += transposed_product(gradient, hidden)
        weight_DV = student.weight_VD.to(hidden.dtype).t()
        inputs = torch.ops.aten.tanh_backward(linear_product(gradient, weight_DV), hidden).to(self.lm.dtype)
        states_FK = plan.states_FK[block]
        self.lm.index_add_(0, states_FK.flatten(), inputs)
        self.am.index_copy_(0, plan.frames_F[block], inputs.view(*states_FK.shape, -1).sum(1))

    def finish(self, student: Joint) -> tuple[Tensor, ...]:
        """In the order, shapes and types of the joint's tensors."""
        sums = (self.am, self.lm, self.weight, self.bias)
        return tuple(x.view(y.shape).to(y.dtype) for x, y in zip(sums, student, strict=True))


@dataclass
class _Divergence:
    """A term's values and gradients on the nodes that have weight."""

    nodes: Nodes
    rows_N: Tensor
    """Each node's row in its block."""
    ends: list[int]
    """Where each block's nodes end."""
    values: list[NodeValues]

    def sums(self, batch: int) -> tuple[Tensor, Tensor]:
        """Weighted sums of values and exponents, `(B,)` each."""
        sums = self.nodes.weights_N.new_zeros((2, batch))
        if self.values:
            both = torch.stack(
                [torch.cat([getattr(v, x) for v in self.values]) for x in ("value_N", "exponent_N")]
            )
            sums.index_add_(1, self.nodes.utterances_N, both * self.nodes.weights_N)
        return sums[0], sums[1]

    def add_gradient_(self, gradient: Tensor, block: int, term_grad_B: Tensor) -> None:
        """Add a block's part, times what comes from above."""
        part = slice(self.ends[block - 1] if block else 0, self.ends[block])
        scale = term_grad_B[self.nodes.utterances_N[part]]
        gradient.index_add_(0, self.rows_N[part], self.values[block].gradient_NV * scale[:, None])


def _diverge(
    student: Joint, plan: _Plan, term: NodeTerm, occupation_BTK: Tensor, kept: list[_Scored]
) -> _Divergence:
    num_kept, num_states = plan.states_FK.shape[1], student.lm_BSD.shape[1]
    weights_R = plan.gather(term.weigh(occupation_BTK)).flatten()
    on_gpu = weights_R.is_cuda
    chosen_N = torch.arange(len(weights_R), device=weights_R.device)
    if not on_gpu:
        chosen_N = (weights_R > MIN_WEIGHT).nonzero().squeeze(1)
    states_N = plan.states_FK.flatten()[chosen_N]
    nodes = Nodes(
        utterances_N=torch.div(states_N, num_states, rounding_mode="floor"),
        frames_N=plan.frames_F[torch.div(chosen_N, num_kept, rounding_mode="floor")],
        states_N=states_N,
        weights_N=weights_R[chosen_N],
    )
    term.begin(nodes)
    bounds = [block.stop * num_kept for block in plan.blocks()]
    ends = bounds if on_gpu else torch.searchsorted(chosen_N, torch.tensor(bounds)).tolist()
    rows_N = chosen_N.clone()
    values, begin, row = [], 0, 0
    for i, (end, bound) in enumerate(zip(ends, bounds, strict=True)):
        rows_N[begin:end] -= row
        part = nodes.part(begin, end)
        if plan.keep_logits:
            logits_RV = kept[i].logits_RV
            student_NV = logits_RV if on_gpu else logits_RV.index_select(0, rows_N[begin:end])
        else:
            student_NV = student.logits_of(part.frames_N, part.states_N)
        values.append(term.evaluate(student_NV, part))
        begin, row = end, bound
    return _Divergence(nodes, rows_N, ends, values)
