"""The student's pruned lattice: what `rnnt` is computed on, and `output_kl` and `path_kl` too.

Kuang et al. 2022 (arXiv 2206.13236): the simple loss tells which states of each frame matter, and the full
joiner runs on those only.

Shapes: B utterances, T encoder frames, S pieces, K states kept per frame, V pieces, D widths.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.common.special_pieces import BLANK_ID
from kdasr.data.batch import Batch
from kdasr.distillation.objective_config import RnntConfig
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import JointLosses, joint_losses
from kdasr.losses.lattice.nodes import NodeTerm
from kdasr.losses.lattice.path_kl import PathTerm
from kdasr.losses.pruned_rnnt import Backend, select_backend
from kdasr.losses.pruned_rnnt.backend import NATIVE
from kdasr.models.joiner import TANH
from kdasr.models.transducer.model import Transducer, TransducerOutput
from kdasr.nn.context import MOST_FRAMES

BLANK = BLANK_ID


@dataclass(frozen=True)
class PrunedLattice:
    """A band of states around each utterance's alignment, and what the student's logits on it are made of."""

    simple_B: Tensor
    """The simple loss in nats, with gradient when asked for."""
    ranges_BTK: Tensor
    """States (pieces emitted so far) of each frame."""
    boundary_B4: Tensor
    """`[0, 0, pieces, frames]`, on the CPU."""
    tokens_BS: Tensor
    windows_BS2: Tensor | None
    """Frames in which each piece may be emitted, first and one past the last; None: anywhere."""
    joint: Joint

    @property
    def valid(self) -> Tensor:
        """`(B, T, K)`: whether a node is inside its utterance."""
        boundary_B4 = self.boundary_B4.to(self.ranges_BTK.device, non_blocking=True)
        frames = torch.arange(self.ranges_BTK.shape[1], device=self.ranges_BTK.device)
        inside_time_BT = frames < boundary_B4[:, 3:4]
        return inside_time_BT[:, :, None] & (self.ranges_BTK <= boundary_B4[:, 2, None, None])


def joint_of(model: Transducer, encoded_BTD: Tensor, predicted_BSD: Tensor) -> Joint:
    """A model's joiner and its projected inputs.

    Raises:
        UserError: its activation is not that of the losses.
    """
    joiner = model.joiner
    if joiner.activation != TANH:
        raise UserError(f"model.joiner_activation is {joiner.activation}: only models with {TANH} train")
    return Joint(
        am_BTD=joiner.project_encoder(encoded_BTD),
        lm_BSD=joiner.project_predictor(predicted_BSD),
        weight_VD=joiner.output.weight,
        bias_V=joiner.output.bias,
    )


def lattice_backend(config: RnntConfig) -> Backend:
    """The pruned RNN-T functions for these options; the log says which, and why.

    `auto` takes the native ones where k2 lacks what is asked for.

    Raises:
        UserError: a backend that does not run here, or k2 by name for what it lacks.
    """
    wanted = {"fast_emit": config.fast_emit or None}
    wanted |= {option: getattr(config, option) for option in ("left_buffer", "right_buffer")}
    native_only = [f"objective.rnnt.{name} {value}" for name, value in wanted.items() if value is not None]
    if native_only and config.backend == "auto":
        return select_backend("native", f"for {native_only[0]}, which k2 does not have")
    chosen = select_backend(config.backend)
    if native_only and chosen.name != "native":
        raise UserError(
            f"{native_only[0]} needs objective.rnnt.backend 'native' or 'auto': {chosen.name} lacks it"
        )
    return chosen


class LatticeBuilder:
    """Builds pruned lattices and evaluates losses on them."""

    def __init__(self, config: RnntConfig) -> None:
        """Raises UserError for a backend that does not run or that cannot do what `config` asks."""
        check_options(config, "objective.rnnt")
        self.config = config
        self._chosen = lattice_backend(config)
        self._native = NATIVE

    @property
    def backend_name(self) -> str:
        """k2 | native."""
        return self._chosen.name

    def build(
        self, model: Transducer, output: TransducerOutput, batch: Batch, *, train_simple: bool, warm: bool
    ) -> PrunedLattice:
        """Prune by the simple loss.

        `train_simple`: the simple loss is part of the total; otherwise no gradient is kept for it. `warm`:
        the delay penalty applies (Kang et al. 2022, arXiv 2211.00490, turn it on once the model can align),
        and so, in `evaluate`, does FastEmit.
        """
        functions = self._functions(batch.tokens_BS, output.encoded_BTD.shape[1])
        boundary_B4 = _boundary(batch.token_lens_B, output.lens_B)
        windows_BS2 = _windows(self.config, batch, model.geometry.frame_seconds, output.encoded_BTD.device)
        restricted = {} if windows_BS2 is None else {"windows": windows_BS2}
        with torch.set_grad_enabled(train_simple and torch.is_grad_enabled()):
            simple_B, (px_grad, py_grad) = functions.rnnt_loss_smoothed(
                lm=model.simple_lm(output.predicted_BSD).float(),
                am=model.simple_am(output.encoded_BTD).float(),
                symbols=batch.tokens_BS,
                termination_symbol=BLANK,
                lm_only_scale=self.config.lm_scale,
                am_only_scale=self.config.am_scale,
                boundary=_for(functions, boundary_B4, output.encoded_BTD.device),
                rnnt_type=self.config.rnnt_type,
                delay_penalty=self._delay_penalty(warm),
                reduction="none",
                return_grad=True,
                **restricted,
            )
        ranges_BTK = functions.get_rnnt_prune_ranges(
            px_grad=px_grad,
            py_grad=py_grad,
            boundary=_for(functions, boundary_B4, px_grad.device),
            s_range=self.config.prune_range,
        )
        joint = joint_of(model, output.encoded_BTD, output.predicted_BSD)
        return PrunedLattice(simple_B, ranges_BTK, boundary_B4, batch.tokens_BS, windows_BS2, joint)

    def evaluate(
        self,
        lattice: PrunedLattice,
        *,
        warm: bool,
        nodes: Sequence[NodeTerm] = (),
        paths: Sequence[PathTerm] = (),
    ) -> JointLosses:
        """The pruned loss in nats, and divergences between nodes and between paths of the same lattice.

        k2's own pruned loss takes logits, so with that backend they are made for it, whole; divergences run
        on the native evaluation beside it.
        """
        penalty = self._delay_penalty(warm)
        functions = self._functions(lattice.tokens_BS, lattice.ranges_BTK.shape[1])
        losses = None
        if functions.name == "native" or nodes or paths:
            losses = joint_losses(
                lattice.joint,
                lattice.tokens_BS,
                lattice.ranges_BTK,
                BLANK,
                lattice.boundary_B4,
                rnnt_type=self.config.rnnt_type,
                windows=lattice.windows_BS2,
                delay_penalty=penalty,
                fast_emit=self.config.fast_emit if warm else 0.0,
                nodes=nodes,
                paths=paths,
                keep_logits=self.config.keep_logits,
            )
            if functions.name == "native":
                return losses
        rnnt_B = functions.rnnt_loss_pruned(
            logits=_logits(functions, lattice),
            symbols=lattice.tokens_BS,
            ranges=lattice.ranges_BTK,
            termination_symbol=BLANK,
            boundary=_for(functions, lattice.boundary_B4, lattice.ranges_BTK.device),
            rnnt_type=self.config.rnnt_type,
            delay_penalty=penalty,
            reduction="none",
        )
        return losses._replace(rnnt_B=rnnt_B) if losses else JointLosses(rnnt_B)

    def _functions(self, tokens_BS: Tensor, num_frames: int) -> Backend:
        # k2 asserts on a batch whose transcripts are all empty, and on one with more tokens than frames.
        return self._chosen if 1 <= tokens_BS.shape[1] <= num_frames else self._native

    def _delay_penalty(self, warm: bool) -> float:
        return self.config.delay_penalty if warm else 0.0


def _windows(config: RnntConfig, batch: Batch, frame_seconds: float, device: torch.device) -> Tensor | None:
    """First and one past the last frame of each piece; None where nothing is restricted."""
    if not config.is_restricted or batch.word_times_BS2 is None:
        return None
    begin_BS, end_BS = batch.word_times_BS2.to(device, non_blocking=True).unbind(-1)
    left = torch.inf if config.left_buffer is None else config.left_buffer
    right = torch.inf if config.right_buffer is None else config.right_buffer
    frames_BS2 = torch.stack((begin_BS - left, end_BS + right), dim=-1) / frame_seconds
    return (frames_BS2.clamp(0, MOST_FRAMES).floor() + torch.arange(2, device=device)).long()


def _boundary(token_lens_B: Tensor, lens_B: Tensor) -> Tensor:
    zeros_B = torch.zeros_like(lens_B)
    return torch.stack((zeros_B, zeros_B, token_lens_B.to(lens_B.dtype), lens_B), dim=1)


def _for(functions: Backend, boundary_B4: Tensor, device: torch.device) -> Tensor:
    """The native functions look at lengths on the CPU without waiting; k2 wants them beside the scores."""
    return boundary_B4 if functions.name == "native" else boundary_B4.to(device, non_blocking=True)


def _logits(functions: Backend, lattice: PrunedLattice) -> Tensor:
    joint = lattice.joint
    am, lm = functions.do_rnnt_pruning(am=joint.am_BTD, lm=joint.lm_BSD, ranges=lattice.ranges_BTK)
    return functional.linear(torch.tanh(am + lm), joint.weight_VD, joint.bias_V).float()
