"""The exported graphs against the PyTorch model, chunk by chunk: a bundle that fails is not written."""

# Shapes: B streams, N samples, T feature frames, F features, C encoder frames of a chunk, X encoder frames of
# all chunks, J joiner width, K pieces of context, V pieces.

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.features import FRAME_SHIFT_SAMPLES, SAMPLE_RATE
from kdasr.export.runtime import OnnxTransducer
from kdasr.models.encoders.base import Geometry
from kdasr.models.predictors.base import LastPieces
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.streaming import split_state, stack_states
from kdasr.recognition.features import whole_features

TOLERANCE = 1e-4
"""Largest difference of a float32 output."""
INT8_TOLERANCE = 0.25
"""Largest relative difference (of norms) of an int8 output: beyond it, quantization has failed outright."""
_STREAMS = 3
_BATCHES = ((37, 101, 64), (1,), (6, 5), (230,))
"""Encoded frames of whole utterances, batch by batch."""


@dataclass(frozen=True)
class Parity:
    """How far graphs are from the model."""

    chunks: int
    """Windows compared, streams counted singly."""
    encoder: float
    """Largest absolute difference of any output."""
    decoder: float
    joiner: float
    encoder_relative: float
    """Norm of all differences of encoder outputs by the norm of the outputs."""

    def check(self, int8: bool) -> None:
        """
        Raises:
            UserError: the graphs differ from the model by more than the tolerance.
        """
        figures = asdict(self)
        names = ["encoder_relative"] if int8 else ["encoder", "decoder", "joiner"]
        limit = INT8_TOLERANCE if int8 else TOLERANCE
        # Written so that nan fails.
        bad = [f"{name} {figures[name]:.3g}" for name in names if not figures[name] <= limit]
        if bad:
            kind = "int8" if int8 else "float32"
            raise UserError(
                f"the {kind} graphs differ from the model: {', '.join(bad)}; allowed: {limit:g}; not written"
            )


@torch.inference_mode()
def measure_parity(model: Transducer, graphs: OnnxTransducer) -> Parity:
    """Compare every chunk of some streams of different ages in one batch, and the two small graphs."""
    if graphs.context.is_full:
        return _offline_parity(model, graphs)
    context, geometry = graphs.context, model.geometry
    waves = [_noise(seed, context, geometry) for seed in range(_STREAMS)]
    streams = [torch.from_numpy(whole_features(SAMPLE_RATE, wave_N, geometry)) for wave_N in waves]
    both: tuple[Any, Any] = model, graphs
    states = [split_state(each.encoder.init_state(_STREAMS, context)) for each in both]
    outputs: list[list[Tensor]] = [[], []]
    for turn in range(_num_turns(context) + _STREAMS - 1):
        # Each stream joins one turn after the one before it, so that ages differ within a batch.
        active = [index for index in range(_STREAMS) if 0 <= turn - index < _num_turns(context)]
        windows = [_window(streams[index], turn - index, context, geometry) for index in active]
        windows_BWF = torch.stack(windows)
        for each, own_states, own_outputs in zip(both, states, outputs, strict=True):
            state = stack_states([own_states[index] for index in active])
            encoded_BCD, _, state = each.encode_chunk(windows_BWF, state, context)
            own_outputs.append(each.joiner.project_encoder(encoded_BCD).flatten(0, 1))
            for index, new_state in zip(active, split_state(state), strict=True):
                own_states[index] = new_state
    expected_XJ, encoded_XJ = (torch.cat(own_outputs) for own_outputs in outputs)
    decoder, joiner = _search_parity(model, graphs, expected_XJ)
    return Parity(
        chunks=_STREAMS * _num_turns(context),
        encoder=_largest(encoded_XJ, expected_XJ),
        decoder=decoder,
        joiner=joiner,
        encoder_relative=float((encoded_XJ - expected_XJ).norm() / expected_XJ.norm()),
    )


def _offline_parity(model: Transducer, graphs: OnnxTransducer) -> Parity:
    """Compare batches of utterances of different lengths, each utterance counted as a chunk."""
    outputs = [_encoded_batch(model, graphs, lengths) for lengths in _BATCHES]
    expected_XJ, encoded_XJ = (torch.cat(own_outputs) for own_outputs in zip(*outputs, strict=True))
    decoder, joiner = _search_parity(model, graphs, expected_XJ)
    return Parity(
        chunks=sum(map(len, _BATCHES)),
        encoder=_largest(encoded_XJ, expected_XJ),
        decoder=decoder,
        joiner=joiner,
        encoder_relative=float((encoded_XJ - expected_XJ).norm() / expected_XJ.norm()),
    )


def _encoded_batch(
    model: Transducer, graphs: OnnxTransducer, lengths: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Valid frames (X, J) of a batch of utterances of these lengths, of the model and of the graphs."""
    context, geometry = Context(left=0, chunk=1), model.geometry
    features = [
        torch.from_numpy(whole_features(SAMPLE_RATE, _noise(seed, context, geometry, length), geometry))
        for seed, length in enumerate(lengths)
    ]
    lens_B = torch.tensor([len(features_TF) for features_TF in features])
    features_BTF = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
    both: tuple[Any, Any] = model, graphs
    outputs = []
    for each in both:
        encoded = each.encode(features_BTF, lens_B, Context.full())
        projected_BTJ = each.joiner.project_encoder(encoded.encoded_BTD)
        frames = [row[:length] for row, length in zip(projected_BTJ, encoded.lens_B.tolist(), strict=True)]
        outputs.append(torch.cat(frames))
    return outputs[0], outputs[1]


def _search_parity(model: Transducer, graphs: OnnxTransducer, encoded_XJ: Tensor) -> tuple[float, float]:
    """Largest differences of predictor and joiner, on the contexts of a start and on random ones."""
    generator = torch.Generator().manual_seed(0)
    size = model.predictor.context_size
    assert size is not None, "a predictor with a memory has no export"
    context_BK = torch.randint(model.config.vocab_size, (64, size), generator=generator)
    # A stream's first contexts: ever fewer places before the first piece.
    for row, start in enumerate(range(size)):
        context_BK[row, : size - 1 - start] = -1
    predicted_BJ = model.joiner.project_predictor(model.predictor.predict(LastPieces(context_BK)))
    decoder = _largest(graphs.predictor.predict(LastPieces(context_BK)), predicted_BJ)
    frames_BJ = encoded_XJ[torch.randint(len(encoded_XJ), (64,), generator=generator)]
    logits_BV = model.joiner(frames_BJ, predicted_BJ)
    return decoder, _largest(graphs.joiner(frames_BJ, predicted_BJ), logits_BV)


def _largest(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max())


def _num_turns(context: Context) -> int:
    """Chunks that fill the cache and then turn it over once more."""
    return 2 * -(-context.left // context.chunk) + 4


def _window(features_TF: Tensor, number: int, context: Context, geometry: Geometry) -> Tensor:
    start = geometry.stride * context.chunk * number
    return features_TF[start : start + geometry.window_features(context.window_frames)]


def _noise(seed: int, context: Context, geometry: Geometry, length: int = 0) -> np.ndarray:
    """Noise that swells from silence to full scale and back, enough of it for all chunks (or frames)."""
    frames = geometry.window_features(length or context.chunk * _num_turns(context) + context.right)
    count = frames * FRAME_SHIFT_SAMPLES
    generator = np.random.default_rng(seed)
    loudness = np.clip(np.sin(2 * np.pi * np.arange(count) / SAMPLE_RATE + seed), 0, 1) ** 2
    return (loudness * np.clip(generator.normal(0, 0.3, count), -1, 1)).astype(np.float32)
