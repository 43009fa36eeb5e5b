"""Losses between hidden layers by distance and by how frames relate to each other.

After Shim et al. 2023 (arXiv 2308.16415), whose distance is the sum of an L1 distance and of a cosine's
logistic loss, and whose relations are those of MiniLM v2 (Wang et al. 2021, arXiv 2012.15828).

Shapes: B utterances, T encoder frames, D width, R relation heads, E width of one.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.precision import as_float


def distance_loss(student_BTD: Tensor, teacher_BTD: Tensor, lens_B: Tensor) -> Tensor:
    """`|h - z|_1 / D - log sigmoid(cos(h, z))` of each frame, averaged over an utterance's valid frames.

    Args:
        student_BTD: gradients go here.
        teacher_BTD: of the same shape; no gradient.
        lens_B: valid frames, int64.

    Returns:
        `(B,)`, float32 (float64 for float64 input); 0 for an utterance without frames. At its least, where
        both are equal, it is `log(1 + 1 / e)`, about 0.31.

    Raises:
        ValueError: shapes that differ.
    """
    _check(student_BTD, teacher_BTD)
    with torch.autocast(device_type=student_BTD.device.type, enabled=False):
        student, teacher = as_float(student_BTD), as_float(teacher_BTD.detach())
        apart_BT = (student - teacher).abs().mean(2)
        cosine_BT = functional.cosine_similarity(student, teacher, dim=2)
        return _mean((apart_BT - functional.logsigmoid(cosine_BT)), lens_B)


def relation_loss(student_BTD: Tensor, teacher_BTD: Tensor, lens_B: Tensor, num_heads: int) -> Tensor:
    """KL from the teacher's relations between frames to the student's, averaged over heads and valid frames.

    The relations of a frame are `softmax(h_i . h_j / sqrt(E))` over the valid frames j, in each of
    `num_heads` equal parts of the width. MiniLM v2 takes them of queries, keys and values; ours are of the
    layer's output, the one thing that every teacher shows.

    Args:
        student_BTD: gradients go here; of any width that `num_heads` divides.
        teacher_BTD: likewise; no gradient.
        lens_B: valid frames, int64.
        num_heads: relation heads, the same for both.

    Returns:
        `(B,)` nats, float32 (float64 for float64 input); 0 for an utterance without frames.

    Raises:
        ValueError: other frames, or a width that `num_heads` does not divide.
    """
    if student_BTD.shape[:2] != teacher_BTD.shape[:2]:
        raise ValueError(
            f"student {tuple(student_BTD.shape)} and teacher {tuple(teacher_BTD.shape)} differ in frames"
        )
    for name, width in (("student", student_BTD.shape[2]), ("teacher", teacher_BTD.shape[2])):
        if width % num_heads:
            raise ValueError(f"the {name}'s width {width} is not a multiple of {num_heads} relation heads")
    with torch.autocast(device_type=student_BTD.device.type, enabled=False):
        student = _relations(as_float(student_BTD), lens_B, num_heads)
        teacher = _relations(as_float(teacher_BTD.detach()), lens_B, num_heads)
        kl_BRTT = teacher.exp() * (teacher - student)
        # A frame that is not there relates to nothing: the logarithms are both very low.
        return _mean(kl_BRTT.sum(3).mean(1), lens_B)


def _relations(hidden_BTD: Tensor, lens_B: Tensor, num_heads: int) -> Tensor:
    """Log-probabilities (B, R, T, T)."""
    hidden_BRTE = hidden_BTD.unflatten(2, (num_heads, -1)).transpose(1, 2)
    scores_BRTT = hidden_BRTE @ hidden_BRTE.transpose(2, 3) / hidden_BRTE.shape[3] ** 0.5
    beyond_BT = _beyond(scores_BRTT, lens_B)
    return scores_BRTT.masked_fill(beyond_BT[:, None, None], _LOW).log_softmax(3)


_LOW = -1e4
"""Of a relation that does not count. Finite: an utterance may have no frame."""


def _beyond(like: Tensor, lens_B: Tensor) -> Tensor:
    """True (B, T) for padding; `like` has T frames in its second dimension from the end."""
    frames_T = torch.arange(like.shape[-2], device=like.device)
    return frames_T >= lens_B.to(like.device, non_blocking=True)[:, None]


def _mean(value_BT: Tensor, lens_B: Tensor) -> Tensor:
    lens_B = lens_B.to(value_BT.device, non_blocking=True)
    inside_BT = torch.arange(value_BT.shape[1], device=value_BT.device) < lens_B[:, None]
    return torch.where(inside_BT, value_BT, 0.0).sum(1) / lens_B.clamp(min=1)


def _check(student_BTD: Tensor, teacher_BTD: Tensor) -> None:
    if student_BTD.shape != teacher_BTD.shape:
        raise ValueError(
            f"student {tuple(student_BTD.shape)} and teacher {tuple(teacher_BTD.shape)} differ in shape"
        )
