"""A teacher that is heard later, or earlier: the target of frame t is what it said at t - shift."""

# Shapes: B utterances, T frames, D joiner width.

from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint, NodeLogits


class MovedLogits(NamedTuple):
    """Logits of nodes whose frames are others of the same utterances; a `NodeLogits`."""

    logits: NodeLogits
    rows_F: Tensor
    """For each row of the flattened (B, T) frames, the row that is looked up."""

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """See `NodeLogits`."""
        return self.logits.logits_of(self.rows_F.to(frames_N.device, non_blocking=True)[frames_N], states_N)


def at_frames(logits: NodeLogits, sources_BT: Tensor, num_frames: int) -> NodeLogits:
    """The same distributions on other frames.

    Args:
        logits: of utterances with `num_frames` frames each, padding included.
        sources_BT: for each new frame, the frame of the same utterance that it shows.
        num_frames: see `logits`.
    """
    if isinstance(logits, Joint):
        am_BTD = logits.am_BTD
        index_BT1 = sources_BT.to(am_BTD.device, non_blocking=True)[:, :, None]
        return logits._replace(am_BTD=am_BTD.gather(1, index_BT1.expand(-1, -1, am_BTD.shape[2])))
    first_B1 = num_frames * torch.arange(len(sources_BT), device=sources_BT.device)[:, None]
    return MovedLogits(logits, (first_B1 + sources_BT).flatten())


def shifted(
    teacher: NodeLogits, lens_B: Tensor, shift: int, num_frames: int, device: torch.device | str = "cpu"
) -> tuple[NodeLogits, Tensor]:
    """Move a teacher's frames by `shift`.

    With a positive shift a student that emits so many frames after its teacher already agrees with it: it is
    allowed to be late. With a negative one the target comes from the teacher's future, and pulls the student
    towards earlier emissions than the teacher's.

    Args:
        teacher: its logits at nodes.
        lens_B: frames of each utterance.
        shift: in frames.
        num_frames: of an utterance, padding included: T.
        device: of the teacher.

    Returns:
        The same distributions on moved frames, and whether a frame's source is inside its utterance,
        `(B, T)`. Frames whose source is outside get the nearest frame inside, so that all hold something.
    """
    lens_B1 = lens_B.to(device, non_blocking=True)[:, None]
    sources_BT = (torch.arange(num_frames, device=device) - shift).expand(len(lens_B), -1)
    inside_BT = (sources_BT >= 0) & (sources_BT < lens_B1)
    nearest_BT = torch.minimum(sources_BT, lens_B1 - 1).clamp(min=0).long()
    return at_frames(teacher, nearest_BT, num_frames), inside_BT
