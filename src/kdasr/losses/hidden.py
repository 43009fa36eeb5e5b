"""Mean squared error between hidden layers.

Shapes: B utterances, T encoder frames, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdasr.losses.precision import as_float


def hidden_mse(
    student_layers: Sequence[Tensor],
    teacher_layers: Sequence[Tensor],
    lens_B: Tensor,
    layer_weights: Sequence[float],
) -> Tensor:
    """Squared error of each layer pair, averaged over an utterance's valid frames and all dimensions.

    The first stage of Tang et al. 2023 (arXiv 2306.15171).

    Args:
        student_layers: `(B, T, D)` each; gradients go here.
        teacher_layers: the partners, of the same shapes; no gradient.
        lens_B: valid frames, int64.
        layer_weights: one per pair; the layers' errors are added with them.

    Returns:
        `(B,)`, float32 (float64 for float64 input); 0 for an utterance without frames.

    Raises:
        ValueError: numbers of layers or shapes that differ.
    """
    if not len(student_layers) == len(teacher_layers) == len(layer_weights):
        raise ValueError(
            f"{len(student_layers)} student layers, {len(teacher_layers)} teacher layers and "
            f"{len(layer_weights)} weights do not pair up"
        )
    total_B: Tensor | None = None
    for student, teacher, weight in zip(student_layers, teacher_layers, layer_weights, strict=True):
        error_B = weight * _layer_mse(student, teacher, lens_B)
        total_B = error_B if total_B is None else total_B + error_B
    if total_B is None:
        raise ValueError("no layers to compare")
    return total_B


def _layer_mse(student_BTD: Tensor, teacher_BTD: Tensor, lens_B: Tensor) -> Tensor:
    if student_BTD.shape != teacher_BTD.shape:
        raise ValueError(
            f"student layer {tuple(student_BTD.shape)} and teacher layer {tuple(teacher_BTD.shape)} "
            "differ in shape"
        )
    _, num_frames, width = student_BTD.shape
    lens_B = lens_B.to(student_BTD.device, non_blocking=True)
    padding_BT = torch.arange(num_frames, device=student_BTD.device) >= lens_B[:, None]
    with torch.autocast(device_type=student_BTD.device.type, enabled=False):
        difference = as_float(student_BTD) - as_float(teacher_BTD.detach())
        difference = difference.masked_fill(padding_BT[:, :, None], 0.0)
        return difference.square().sum((1, 2)) / (lens_B.clamp(min=1) * width)
