"""Teacher and student on the same frames: the one place where counts and rates of frames meet.

A student's frame is compared with the teacher's frame that covers its middle. So a teacher of half the rate
gives each frame twice, and one of twice the rate every other one. A student's frame beyond the teacher's last
one is compared with the last one: encoders of the same rate may differ by a few frames at the end.
"""

# Shapes: B utterances, T frames, D width, N lattice nodes, V classes.

from collections.abc import Sequence

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.teacher import TeacherOutput
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.shift import at_frames

MOST_APART = 4
"""Frames, of the longer kind, by which the ends of an utterance may differ between teacher and student."""


def source_frames(
    num_frames: int, lens_B: Tensor, frame_seconds: float, teacher_lens_B: Tensor, teacher_seconds: float
) -> Tensor | None:
    """The teacher's frame for each of the student's.

    Args:
        num_frames: the student's, padding included: T.
        lens_B: its valid frames, on the CPU.
        frame_seconds: duration of one of them.
        teacher_lens_B: the teacher's valid frames, on the CPU.
        teacher_seconds: duration of one of them.

    Returns:
        `(B, T)` int64, on the CPU, each at least 0 and below the teacher's length where that is not 0; None
        where all are their own: as many valid frames, of the same duration.

    Raises:
        UserError: an utterance's ends are further apart than `MOST_APART` frames.
    """
    if frame_seconds == teacher_seconds and torch.equal(lens_B, teacher_lens_B):
        return None
    apart_B = (lens_B * frame_seconds - teacher_lens_B * teacher_seconds).abs()
    if bool((apart_B > MOST_APART * max(frame_seconds, teacher_seconds) + 1e-6).any()):
        worst = int(apart_B.argmax())
        raise UserError(
            f"the teacher has {int(teacher_lens_B[worst])} frames of {1000 * teacher_seconds:g} ms where the "
            f"student has {int(lens_B[worst])} of {1000 * frame_seconds:g} ms: they hear different audio, or "
            "a frame rate is wrong"
        )
    middle_T = (torch.arange(num_frames, dtype=torch.float64) + 0.5) * (frame_seconds / teacher_seconds)
    # Rates are ratios of small numbers: what is a whole number up to rounding is that number.
    frames_T = (middle_T + 1e-9).floor().long()
    return torch.minimum(frames_T, teacher_lens_B[:, None] - 1).clamp(min=0)


class AlignedTeacher:
    """What teachers say of a batch, on the student's frames; each part is made when it is asked for.

    Of several teachers the output distributions are averaged; the hidden layers are those of the first.
    """

    def __init__(
        self, outputs: Sequence[TeacherOutput], num_frames: int, lens_B: Tensor, frame_seconds: float
    ) -> None:
        """
        Args:
            outputs: the teachers', at least one.
            num_frames: the student's, padding included.
            lens_B: the student's valid frames, on the CPU.
            frame_seconds: duration of one of them.
        """
        self._outputs = outputs
        self._student = num_frames, lens_B, frame_seconds
        self._nodes: NodeLogits | None = None

    def hidden(self, layer: int) -> Tensor:
        """A hidden layer of the first teacher, `(B, T, D)`.

        Raises:
            UserError: see `source_frames`.
        """
        values_BTD, teacher_lens_B, seconds = self._outputs[0].hidden[layer]
        num_frames = self._student[0]
        sources_BT = source_frames(*self._student, teacher_lens_B, seconds)
        if sources_BT is None and values_BTD.shape[1] == num_frames:
            return values_BTD
        if sources_BT is None:
            sources_BT = _own_frames(num_frames, teacher_lens_B)
        if values_BTD.shape[1] == 0:
            return values_BTD.new_zeros(len(values_BTD), num_frames, values_BTD.shape[2])
        index_BT1 = sources_BT.to(values_BTD.device, non_blocking=True)[:, :, None]
        return values_BTD.gather(1, index_BT1.expand(-1, -1, values_BTD.shape[2]))

    def nodes(self) -> NodeLogits:
        """Logits at nodes, whose frames are rows of the student's flattened (B, T).

        Raises:
            UserError: see `source_frames`; also a batch for which the teacher has no frame.
        """
        if self._nodes is None:
            aligned = [self._aligned(output) for output in self._outputs]
            self._nodes = aligned[0] if len(aligned) == 1 else MeanLogits(aligned)
        return self._nodes

    def _aligned(self, output: TeacherOutput) -> NodeLogits:
        num_frames = self._student[0]
        sources_BT = source_frames(*self._student, output.lens_B, output.frame_seconds)
        if sources_BT is None and output.num_frames == num_frames:
            return output.nodes()
        if output.num_frames == 0:
            raise UserError("the teacher has no frame for a batch of short utterances")
        if sources_BT is None:
            sources_BT = _own_frames(num_frames, output.lens_B)
        return at_frames(output.nodes(), sources_BT, output.num_frames)


def _own_frames(num_frames: int, lens_B: Tensor) -> Tensor:
    """Each frame itself, within its utterance: for another padding."""
    return torch.minimum(torch.arange(num_frames), lens_B[:, None] - 1).clamp(min=0)


class MeanLogits:
    """The mean of several output distributions at nodes; a `NodeLogits`."""

    def __init__(self, members: Sequence[NodeLogits]) -> None:
        self.members = members

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Logarithms of the mean probabilities, `(N, V)`."""
        log_probs = [
            torch.log_softmax(member.logits_of(frames_N, states_N), dim=-1) for member in self.members
        ]
        return torch.stack(log_probs).logsumexp(0) - torch.tensor(float(len(log_probs))).log()
