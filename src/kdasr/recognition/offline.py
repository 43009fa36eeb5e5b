"""Whole recordings in batches: the same result as streaming them, without the waiting.

Shapes: B recordings, T frames (features or encoded), F mel bins, D encoder width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.search import Search
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result, Token, alternative


@torch.inference_mode()
def recognize_offline(
    recognizer: StreamingRecognizer,
    waves: Sequence[NDArray[np.float32]],
    nbest: int = 0,
    biasing: Sequence[BiasingGraph | None] | None = None,
) -> list[Result]:
    """Recognize whole recordings (16 kHz) in one batch, under the recognizer's context and with its search.

    Features come from the raw samples, with the silence at the end that streams get, so that pieces and
    frames are those of `StreamingRecognizer`. Every piece counts as shown at the end of its recording.

    Args:
        recognizer: the recognizer.
        waves: samples of each recording.
        nbest: how many hypotheses to list with each result; beam search only.
        biasing: phrases of each recording, where they are not the recognizer's own; beam search only.

    Raises:
        UserError: n-best lists or biasing in greedy search, or biasing towards pieces that the model does
            not have.
    """
    if not waves:
        return []
    return search_encoded(recognizer, recognizer.search, encode_recordings(recognizer, waves), nbest, biasing)


class EncodedRecordings(NamedTuple):
    """Whole recordings as the encoder leaves them, for one search or several."""

    waves: Sequence[NDArray[np.float32]]
    encoded_BTD: Tensor
    lens_B: Tensor


@torch.inference_mode()
def search_encoded(
    recognizer: StreamingRecognizer,
    search: Search,
    encoded: EncodedRecordings,
    nbest: int = 0,
    biasing: Sequence[BiasingGraph | None] | None = None,
) -> list[Result]:
    """What a search finds in recordings that `recognizer` has encoded; see `recognize_offline`."""
    waves = encoded.waves
    graphs = [None] * len(waves) if biasing is None else biasing
    for graph in graphs:
        recognizer.check_biasing(graph)
    states = [search.initial_state(graph or recognizer.biasing) for graph in graphs]
    states = search.advance(encoded.encoded_BTD, encoded.lens_B, states)
    results = []
    for state, wave in zip(states, waves, strict=True):
        best = search.best(state, final=True)
        end = len(wave) / SAMPLE_RATE
        tokens = [
            Token.of(item, recognizer.tokenizer.piece(item.token), item.frame, end) for item in best.emissions
        ]
        listed = search.nbest(state, nbest, final=True) if nbest else []
        alternatives = [alternative(recognizer.text(entry.tokens), entry) for entry in listed]
        result = Result(
            tokens,
            is_final=True,
            nbest=alternatives,
            calibration=recognizer.calibration,
            frame_seconds=recognizer.geometry.frame_seconds,
        )
        results.append(result)
    return results


@torch.inference_mode()
def encode_recordings(
    recognizer: StreamingRecognizer, waves: Sequence[NDArray[np.float32]]
) -> EncodedRecordings:
    """Encode whole recordings (16 kHz), at least one, in one batch; (B, T, D) and lengths (B,)."""
    geometry = recognizer.geometry
    features = [whole_features(SAMPLE_RATE, wave, geometry, recognizer.tail_seconds) for wave in waves]
    # A batch of nothing but empty recordings still needs one window for the encoder.
    width = max(geometry.window_features(1), *(len(frames) for frames in features))
    features_BTF = np.zeros((len(features), width, NUM_MEL_BINS), dtype=np.float32)
    for row, frames in enumerate(features):
        features_BTF[row, : len(frames)] = frames
    device = next(recognizer.model.parameters()).device
    feature_lens_B = torch.tensor([len(frames) for frames in features])
    encoded = recognizer.model.encode(
        torch.from_numpy(features_BTF).to(device), feature_lens_B, recognizer.context
    )
    # What an encoder gives beyond the frames of a stream stands for nothing but silence.
    lens_B = encoded.lens_B.minimum(geometry.streamed_frames(feature_lens_B))
    return EncodedRecordings(waves, encoded.encoded_BTD, lens_B)
