"""Encoding an utterance as a stream: what the tests compare with encoding it whole."""

# Shapes: T feature frames, F features, W feature frames of a window, U encoder frames, D width.

import torch
from torch import Tensor

from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context

PADDING = 7.0
"""What fills a final, shorter window: loud, so that a forgotten mask shows."""


def windows(features_TF: Tensor, context: Context) -> list[tuple[Tensor, int]]:
    """The windows (1, W, F) of a stream and how many of their frames are valid."""
    size, pairs = 4 * context.window_frames + 3, []
    for start in range(0, len(features_TF), 4 * context.chunk):
        part_XF = features_TF[start : start + size]
        window_WF = part_XF.new_full((size, features_TF.shape[1]), PADDING)
        window_WF[: len(part_XF)] = part_XF
        pairs.append((window_WF[None], len(part_XF)))
    return pairs


def encode_by_chunks(model: Transducer, features_TF: Tensor, context: Context) -> Tensor:
    """(U, D) from one window at a time."""
    state, outputs = model.encoder.init_state(1, context), []
    for window_BWF, valid in windows(features_TF, context):
        encoded_BCD, lens_B, state = model.encode_chunk(window_BWF, state, context, torch.tensor([valid]))
        outputs.append(encoded_BCD[0, : int(lens_B[0])])
    return torch.cat(outputs)
