"""A teacher that is heard later, or earlier: the target of frame t is what it said at t - shift."""

# Shapes: B utterances, T frames, D joiner width.

import torch
from torch import Tensor

from kdasr.losses.joiner import Joint


def shifted(teacher: Joint, lens_B: Tensor, shift: int) -> tuple[Joint, Tensor]:
    """Move a teacher's frames by `shift`.

    With a positive shift a student that emits so many frames after its teacher already agrees with it: it is
    allowed to be late. With a negative one the target comes from the teacher's future, and pulls the student
    towards earlier emissions than the teacher's.

    Args:
        teacher: joiner and projected inputs.
        lens_B: frames of each utterance.
        shift: in frames.

    Returns:
        The same joiner on moved frames, and whether a frame's source is inside its utterance, `(B, T)`.
        Frames whose source is outside get the nearest frame inside, so that all of them hold something.
    """
    am_BTD = teacher.am_BTD
    lens_B1 = lens_B.to(am_BTD.device)[:, None]
    sources_BT = (torch.arange(am_BTD.shape[1], device=am_BTD.device) - shift).expand(len(am_BTD), -1)
    inside_BT = (sources_BT >= 0) & (sources_BT < lens_B1)
    nearest_BT = torch.minimum(sources_BT, lens_B1 - 1).clamp(min=0)
    moved_BTD = am_BTD.gather(1, nearest_BT[:, :, None].expand_as(am_BTD))
    return teacher._replace(am_BTD=moved_BTD), inside_BT
