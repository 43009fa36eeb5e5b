"""A small random recognizer that emits pieces, and some audio."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kdasr.models.encoders.base import COPY
from kdasr.models.predictors.base import PredictorConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizable import Parts
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.testing import tiny_config

PIECES = ["<blk>", "<sos/eos>", "<unk>", "\u2581A", "B", "\u2581CD", "E", "\u2581", "F", "\u2581GH", "I"]


GEOMETRY = tiny_config().geometry
"""Of its encoder: a frame per 40 ms, in windows with three feature frames more."""


class PieceTable:
    """Stands for a tokenizer where only the names of pieces matter."""

    vocab_size = len(PIECES)

    def piece(self, index: int) -> str:
        return PIECES[index]


def bursts(seconds: float, seed: int = 0, rate: int = 16000) -> NDArray[np.float32]:
    """Noise and tones in bursts: no two stretches alike, loud and silent ones."""
    generator = np.random.default_rng(seed)
    count = round(seconds * rate)
    noise = generator.normal(size=count)
    time = np.arange(count) / rate
    tones = sum(np.sin(2 * np.pi * f * time + p) for f, p in generator.uniform(1, 3, (4, 2)) * [400, 6])
    loudness = np.clip(np.sin(2 * np.pi * generator.uniform(1.5, 3) * time + seed), 0, 1)
    return (0.1 * loudness * (noise + tones)).astype(np.float32)


@torch.no_grad()
def _spread_pieces(model: Transducer) -> None:
    """Whiten the joiner's hidden units on some audio, so that a random model emits all kinds of pieces."""
    vocab_size = model.config.vocab_size
    features = torch.from_numpy(whole_features(16000, bursts(8.0, seed=99), model.geometry))[None]
    lens = torch.tensor([features.shape[1]])
    encoded_BTD = model.eval().encode(features, lens, Context(left=8, chunk=4)).encoded_BTD
    predicted = model.joiner.project_predictor(model.predictor(torch.randint(0, vocab_size, (1, 200))))
    hidden = torch.tanh(model.joiner.project_encoder(encoded_BTD)[0, :, None] + predicted[0]).flatten(0, 1)
    values, vectors = torch.linalg.eigh(torch.cov(hidden.T))
    weight = torch.randn(vocab_size, len(values)) @ (vectors / values.clamp(min=1e-4).sqrt()).T
    model.joiner.output.weight.copy_(weight)
    model.joiner.output.bias.copy_(-(weight @ hidden.mean(dim=0)))
    model.joiner.output.bias[0] += 1.5
    model.joiner.output.bias[1] -= 9.0  # never <sos/eos>


def make_recognizer(
    context: Context,
    tail_seconds: float = 0.0,
    seed: int = 1,
    vocab_size: int = len(PIECES),
    predictor: PredictorConfig | None = None,
    lookahead: str = COPY,
    **options: Any,
) -> StreamingRecognizer:
    """A small random recognizer; the same seed gives the same weights. `options` are the recognizer's."""
    torch.manual_seed(seed)
    config = tiny_config(vocab_size)
    config.encoder = replace(config.encoder, dropout=0.1, lookahead=lookahead)  # type: ignore[call-arg]
    config.predictor = predictor or config.predictor
    model = build_transducer(config)
    model.set_feature_stats(torch.full((80,), -6.0), torch.full((80,), 4.0))
    _spread_pieces(model)
    model.train()  # the recognizer has to switch dropout off itself
    parts = Parts(model, PieceTable(), context)  # type: ignore[arg-type]
    return StreamingRecognizer(parts, tail_seconds=tail_seconds, **options)
