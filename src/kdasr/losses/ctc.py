"""The auxiliary CTC loss (Graves et al. 2006).

Shapes: B utterances, T encoder frames, S pieces, V classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.common.special_pieces import BLANK_ID
from kdasr.losses.precision import as_float


def ctc_loss(
    logits_BTV: Tensor, lens_B: Tensor, tokens_BS: Tensor, token_lens_B: Tensor, blank: int = BLANK_ID
) -> Tensor:
    """CTC loss of each utterance.

    Args:
        logits_BTV: unnormalized.
        lens_B: valid frames, int64.
        tokens_BS: pieces, padded arbitrarily.
        token_lens_B: valid pieces, int64; 0 is allowed.
        blank: class of the blank.

    Returns:
        `(B,)` nats, at least float32; 0, without gradient, where the pieces do not fit into the frames.
    """
    with torch.autocast(device_type=logits_BTV.device.type, enabled=False):
        log_probs_TBV = torch.log_softmax(as_float(logits_BTV), dim=-1).transpose(0, 1)
        return functional.ctc_loss(
            log_probs_TBV,
            tokens_BS,
            lens_B,
            token_lens_B,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )
