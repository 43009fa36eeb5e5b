"""Whole recordings in batches: the same result as streaming them, without the waiting.

Shapes: B recordings, T feature frames, F mel bins.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE
from kdasr.decoding.greedy import greedy_search
from kdasr.streaming.features import OVERLAP, SUBSAMPLING, whole_features
from kdasr.streaming.recognizer import StreamingRecognizer
from kdasr.streaming.result import Result, Token


@torch.inference_mode()
def recognise_offline(recognizer: StreamingRecognizer, waves: Sequence[NDArray[np.float32]]) -> list[Result]:
    """Recognise whole recordings (16 kHz) in one batch, under the recogniser's context.

    Features come from the raw samples, with the silence at the end that streams get, so that pieces and
    frames are those of `StreamingRecognizer`. Every piece counts as shown at the end of its recording.
    """
    if not waves:
        return []
    features = [whole_features(SAMPLE_RATE, wave, recognizer.tail_seconds) for wave in waves]
    # A batch of nothing but empty recordings still needs one window for the front end.
    width = max(SUBSAMPLING + OVERLAP, *(len(frames) for frames in features))
    features_BTF = np.zeros((len(features), width, NUM_MEL_BINS), dtype=np.float32)
    for row, frames in enumerate(features):
        features_BTF[row, : len(frames)] = frames
    device = next(recognizer.model.parameters()).device
    encoded = recognizer.model.encode(
        torch.from_numpy(features_BTF).to(device),
        torch.tensor([len(frames) for frames in features]),
        recognizer.context,
    )
    hypotheses = greedy_search(recognizer.model, encoded.encoded_BTD, encoded.lens_B)
    return [
        Result(
            [
                Token(token, recognizer.tokenizer.piece(token), frame, len(wave) / SAMPLE_RATE)
                for token, frame in zip(hypothesis.tokens, hypothesis.frames, strict=True)
            ],
            is_final=True,
        )
        for hypothesis, wave in zip(hypotheses, waves, strict=True)
    ]
