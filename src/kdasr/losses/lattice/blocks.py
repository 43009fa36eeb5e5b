"""A pruned lattice's nodes in blocks: their scores, and their gradient on its way through the joiner."""

# Shapes: B utterances, T frames, K states kept per frame, V classes, D joiner width; F valid frames of all
# utterances, R nodes of a block.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint, NodeLogits, check_joint
from kdasr.losses.lattice.kernels import node_kernels
from kdasr.losses.precision import as_float
from kdasr.losses.pruned_rnnt.arcs import node_log_probs, softmax_to_gradient_
from kdasr.losses.pruned_rnnt.checks import check_boundary, check_names, check_ranges, check_symbols
from kdasr.losses.pruned_rnnt.pruned import symbols_of_nodes
from kdasr.nn.linear import linear_product, transposed_product

NODES_AT_ONCE = {"cpu": 1024, "gpu": 1 << 17}
"""Small enough for a core's cache; on a GPU, large enough that launches do not count."""
_WORTH_A_COPY = 0.9
"""Share of a block's nodes up to which they are copied out of it."""


@dataclass(frozen=True)
class LatticePlan:
    """Which nodes are evaluated, and with what."""

    frames_F: Tensor
    states_FK: Tensor
    symbols_FK: Tensor
    ranges_BTK: Tensor
    boundary: Tensor | None
    num_symbols: int
    blank: int
    rnnt_type: str
    windows: Tensor | None = None
    """`(B, S, 2)`: the frames in which each symbol may be emitted."""
    delay_penalty: float = 0.0
    fast_emit: float = 0.0
    keep_logits: bool = False
    with_gradient: bool = False

    def blocks(self) -> Iterator[slice]:
        """Slices of F."""
        num_frames, num_kept = self.states_FK.shape
        place = "cpu" if self.frames_F.device.type == "cpu" else "gpu"
        size = max(NODES_AT_ONCE[place] // max(num_kept, 1), 1)
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


def plan_of(
    joint: Joint,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None,
    rnnt_type: str,
) -> LatticePlan:
    """Which nodes a joiner is evaluated on; its scores are used once, and without gradient.

    Arguments and errors as `kdasr.losses.lattice.joint.joint_losses`.
    """
    check_names(rnnt_type, "none")
    check_ranges(ranges, symbols.shape[-1])
    check_joint(joint, ranges)
    num_states, num_classes = joint.lm_BSD.shape[1], joint.weight_VD.shape[0]
    check_symbols(symbols, len(ranges), num_classes, termination_symbol, num_states)
    return plan_of_nodes(symbols, ranges, termination_symbol, boundary, rnnt_type)


def plan_of_nodes(
    symbols: Tensor, ranges: Tensor, termination_symbol: int, boundary: Tensor | None, rnnt_type: str
) -> LatticePlan:
    """`plan_of` for logits of which nothing is known: S + 1 states for S symbols."""
    check_names(rnnt_type, "none")
    check_ranges(ranges, symbols.shape[-1])
    batch, num_frames, _ = ranges.shape
    check_boundary(boundary, batch, symbols.shape[1], num_frames, from_origin=True)
    ranges = ranges.long()
    boundary = None if boundary is None else boundary.to(ranges.device, non_blocking=True).long()
    frames_F, states_FK = valid_frames(ranges, boundary, symbols.shape[1] + 1)
    symbols_BTK = symbols_of_nodes(symbols, ranges, termination_symbol)
    return LatticePlan(
        frames_F=frames_F,
        states_FK=states_FK,
        symbols_FK=symbols_BTK.flatten(0, 1).index_select(0, frames_F),
        ranges_BTK=ranges,
        boundary=boundary,
        num_symbols=symbols.shape[1],
        blank=termination_symbol,
        rnnt_type=rnnt_type,
    )


def valid_frames(ranges: Tensor, boundary: Tensor | None, num_states: int) -> tuple[Tensor, Tensor]:
    """Rows of the flattened encoder output `(F,)`, and of the predictor output `(F, K)`."""
    batch, num_frames, _ = ranges.shape
    rows = ranges + num_states * torch.arange(batch, device=ranges.device)[:, None, None]
    if boundary is None or ranges.is_cuda:
        # Counting the valid frames would make the CPU wait for the GPU.
        return torch.arange(batch * num_frames, device=ranges.device), rows.flatten(0, 1)
    frames = torch.arange(num_frames, device=ranges.device)
    valid_F = (frames < boundary[:, 3:4]).flatten().nonzero().squeeze(1)
    return valid_F, rows.flatten(0, 1).index_select(0, valid_F)


@dataclass
class Block:
    """The logits of a block of frames."""

    logits_RV: Tensor
    normalizers_R: Tensor | None
    """Only the kernels want them again."""

    @classmethod
    def scored(cls, logits_RV: Tensor, symbols_R: Tensor, blank: int) -> tuple["Block", Tensor, Tensor]:
        """The block, and the log-probabilities of its nodes' symbols and blanks."""
        kernels = node_kernels(logits_RV)
        if kernels:
            px_R, py_R, normalizers_R = kernels.node_scores(logits_RV, symbols_R, blank)
            return cls(logits_RV, normalizers_R), px_R, py_R
        return cls(logits_RV, None), *node_log_probs(logits_RV, symbols_R, blank)

    def of(self, used: "UsedNodes") -> "Block":
        """The logits of some of the nodes."""
        if used.rows_R is None:
            return self
        normalizers_R = None if self.normalizers_R is None else self.normalizers_R[used.rows_R]
        return Block(self.logits_RV.index_select(0, used.rows_R), normalizers_R)

    def gradient_(self, used: "UsedNodes", blank: int) -> Tensor:
        """The gradient of these nodes' logits; with kernels it takes their place."""
        kernels = node_kernels(self.logits_RV)
        if not kernels:
            probs_RV = torch.softmax(self.logits_RV, dim=-1)
            return softmax_to_gradient_(
                probs_RV, used.symbols_R, blank, used.symbol_grad_R, used.blank_grad_R
            )
        # A kernel's writes are unknown to autograd, which has to refuse a second backward pass.
        torch.autograd.graph.increment_version(self.logits_RV)
        return kernels.node_gradient_(
            self.logits_RV.detach(),
            used.symbols_R,
            blank,
            self.normalizers_R,
            used.symbol_grad_R,
            used.blank_grad_R,
        )


@dataclass(frozen=True)
class UsedNodes:
    """The nodes of a block that have a gradient: on the CPU often few, since most are on no likely path."""

    num_kept: int
    """K."""
    rows_R: Tensor | None
    """Their rows in the block; None: all of it."""
    frames_R: Tensor
    states_R: Tensor
    symbols_R: Tensor
    symbol_grad_R: Tensor
    """Derivative by the log-probability of each node's symbol ..."""
    blank_grad_R: Tensor
    """... and of its blank."""

    @classmethod
    def of(
        cls,
        plan: LatticePlan,
        block: slice,
        symbol_grad_FK: Tensor,
        blank_grad_FK: Tensor,
        others: Sequence[Tensor] = (),
    ) -> "UsedNodes":
        """`others`: rows that have a gradient besides that of their arcs."""
        num_kept = plan.states_FK.shape[1]
        nodes = (
            *plan.rows(block),
            *(values[block].flatten() for values in (plan.symbols_FK, symbol_grad_FK, blank_grad_FK)),
        )
        if symbol_grad_FK.is_cuda:
            # Counting them would make the CPU wait for the GPU.
            return cls(num_kept, None, *nodes)
        used_R = (nodes[3] != 0.0).logical_or_(nodes[4] != 0.0)
        for rows in others:
            used_R[rows] = True
        rows_R = used_R.nonzero().squeeze(1)
        if len(rows_R) > _WORTH_A_COPY * len(used_R):
            return cls(num_kept, None, *nodes)
        return cls(num_kept, rows_R, *(values.index_select(0, rows_R) for values in nodes))

    def places_of(self, rows: Tensor) -> Tensor:
        """Where rows of the block stand among these."""
        return rows if self.rows_R is None else torch.searchsorted(self.rows_R, rows)


def score_nodes(logits: NodeLogits, plan: LatticePlan) -> tuple[Tensor, Tensor, list[Block]]:
    """Log-probabilities of the nodes' symbols and blanks `(F, K)`, and the blocks if they are kept."""
    kept: list[Block] = []
    like = logits.am_BTD if isinstance(logits, Joint) else torch.zeros(0, device=plan.frames_F.device)
    scores = [as_float(like.new_zeros((2, 0)))]
    for block in plan.blocks():
        logits_RV = logits.logits_of(*plan.rows(block))
        scored, px_R, py_R = Block.scored(logits_RV, plan.symbols_FK[block].flatten(), plan.blank)
        scores.append(torch.stack((px_R, py_R)))
        if plan.keep_logits:
            kept.append(scored)
    px, py = torch.cat(scores, dim=1).view(2, *plan.states_FK.shape).unbind(0)
    return px, py, kept


class Gradients:
    """Sums over blocks, in the losses' type, of the tensors that need them."""

    def __init__(self, student: Joint, needed: Sequence[bool]) -> None:
        self.student = student
        dtype = torch.float64 if student.am_BTD.dtype == torch.float64 else torch.float32
        self.sums = [
            torch.zeros(tensor.shape, dtype=dtype, device=tensor.device) if wanted else None
            for tensor, wanted in zip(student, needed, strict=True)
        ]

    def add(self, used: UsedNodes, hidden: Tensor, gradient: Tensor) -> None:
        """Take the nodes' gradient of the logits through the joiner."""
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
        if lm is not None:
            lm.flatten(0, 1).index_add_(0, used.states_R, inputs)
        if am is not None and used.rows_R is not None:
            am.flatten(0, 1).index_add_(0, used.frames_R, inputs)
        elif am is not None:
            frames = used.frames_R[:: used.num_kept]
            am.flatten(0, 1).index_copy_(0, frames, inputs.view(len(frames), used.num_kept, -1).sum(1))

    def finish(self) -> list[Tensor | None]:
        """In the order and types of the joint's tensors."""
        return [
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(self.sums, self.student, strict=True)
        ]
