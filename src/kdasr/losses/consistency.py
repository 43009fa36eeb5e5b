"""Agreement of two CTC outputs on one utterance.

Shapes: B utterances, T encoder frames, V pieces.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.precision import as_float


def ctc_consistency(logits_BTV: Tensor, target_BTV: Tensor, lens_B: Tensor) -> Tensor:
    """KL from a target's distributions over pieces to ours, summed over an utterance's valid frames.

    One direction of the consistency loss of Yao et al. 2024 (CR-CTC, arXiv 2410.05101).

    Args:
        logits_BTV: unnormalized; gradients go here.
        target_BTV: unnormalized, of the same shape; no gradient.
        lens_B: valid frames, int64.

    Returns:
        `(B,)` nats, float32 (float64 for float64 input); 0 for an utterance without frames.

    Raises:
        ValueError: shapes that differ.
    """
    if logits_BTV.shape != target_BTV.shape:
        raise ValueError(f"{tuple(logits_BTV.shape)} and {tuple(target_BTV.shape)} differ in shape")
    with torch.autocast(device_type=logits_BTV.device.type, enabled=False):
        own = as_float(logits_BTV).log_softmax(2)
        target = as_float(target_BTV.detach()).log_softmax(2)
        value_BT = functional.kl_div(own, target, reduction="none", log_target=True).sum(2)
        frames_T = torch.arange(value_BT.shape[1], device=value_BT.device)
        lens_B = lens_B.to(value_BT.device, non_blocking=True)
        return torch.where(frames_T < lens_B[:, None], value_BT, 0.0).sum(1)
