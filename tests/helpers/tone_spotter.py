"""A transducer made by hand: it hears tones, and says which one it was once it hears that it is over."""

from itertools import pairwise
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdasr.models.encoders.base import Geometry
from kdasr.models.predictors.base import LastPieces, WindowPredictor
from kdasr.nn.context import Context
from kdasr.nn.subsampling import FACTOR, MIN_FRAMES, subsampled_length
from kdasr.recognition.recognizable import Parts
from kdasr.recognition.recognizer import StreamingRecognizer

# Shapes: B streams, T feature frames, W feature frames of a window, U encoder frames, F mel bins, V pieces.

HERTZ = (400, 1000, 2000, 4000)
PIECES = ["<blk>", "<sos/eos>", "<unk>", *(f"{mark}{hz}" for hz in HERTZ for mark in ("\u2581", "."))]
WORDS = [f"{hz}.{hz}" for hz in HERTZ]
_LOUD = -5.0
"""Log-mel energies: a tone has more than this, a frame without any of it less."""


class _Heard(NamedTuple):
    """Tones in the last two encoder frames: -1 for silence."""

    tones_B2: Tensor


class _Encoder(nn.Module):
    """Its frames see seven feature frames and, to say something, the context's look-ahead."""

    def init_state(self, batch_size: int, context: Context, device: torch.device) -> _Heard:
        return _Heard(torch.full((batch_size, 2), -1, device=device))


class _Predictor(WindowPredictor, nn.Module):
    context_size = 2

    def predict(self, state: LastPieces) -> Tensor:
        return torch.zeros(len(state.pieces_BK), len(PIECES))


class Spotter(nn.Module):
    """Says the first piece of a tone in the first frame that hears nothing of it, and the second in the next.

    Both only if the frames of the right context are there, and silent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.geometry = Geometry(dim=len(PIECES), stride=FACTOR, overlap=MIN_FRAMES - FACTOR, hidden=())
        self.encoder, self.predictor, self.joiner = _Encoder(), _Predictor(), _Joiner()
        self.weight = nn.Parameter(torch.zeros(1))

    def encode(self, features_BTF: Tensor, lens_B: Tensor, context: Context) -> SimpleNamespace:
        state = self.encoder.init_state(len(features_BTF), context, features_BTF.device)
        frames_B = subsampled_length(lens_B)
        encoded_BUV, _ = _spot(_tones(features_BTF), frames_B, state, max(0, context.right))
        return SimpleNamespace(encoded_BTD=encoded_BUV, lens_B=frames_B)

    def encode_chunk(
        self, features_BWF: Tensor, state: _Heard, context: Context, feature_lens_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor, _Heard]:
        tones_BU = _tones(features_BWF)
        frames_B = torch.full((len(tones_BU),), tones_BU.shape[1])
        if feature_lens_B is not None:
            frames_B = subsampled_length(feature_lens_B)
        encoded_BUV, history_BU = _spot(tones_BU, frames_B, state, context.right)
        chunk = context.chunk
        return encoded_BUV[:, :chunk], frames_B.clamp(max=chunk), _Heard(history_BU[:, chunk : chunk + 2])


class _Joiner(nn.Module):
    def project_encoder(self, encoded: Tensor) -> Tensor:
        return encoded

    def project_predictor(self, predicted: Tensor) -> Tensor:
        return predicted

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        return encoded + predicted


def _tones(features_BTF: Tensor) -> Tensor:
    """The tone that each encoder frame hears some of (B, U), -1: none."""
    windows_BUF = features_BTF.unfold(1, MIN_FRAMES, FACTOR).amax(dim=-1)
    loudest_BU, bins_BU = windows_BUF.max(dim=2)
    edges = torch.tensor([_mel_bin((low + high) / 2) for low, high in pairwise(HERTZ)])
    return torch.where(loudest_BU > _LOUD, torch.bucketize(bins_BU, edges), -1)


def _mel_bin(hz: float) -> int:
    low, high, at = (1127 * np.log(1 + f / 700) for f in (20, 7600, hz))
    return round(80 * (at - low) / (high - low))


def _spot(tones_BU: Tensor, frames_B: Tensor, state: _Heard, right: int) -> tuple[Tensor, Tensor]:
    history_BU = torch.cat([state.tones_B2, tones_BU], dim=1)
    encoded_BUV = torch.zeros(*tones_BU.shape, len(PIECES))
    encoded_BUV[:, :, 0] = 5.0
    for row in range(tones_BU.shape[0]):
        for frame in range(tones_BU.shape[1]):
            before, last, *ahead = history_BU[row, frame : frame + 3 + right].tolist()
            if frame + right >= frames_B[row] or any(tone != -1 for tone in ahead):
                continue
            if last != -1:
                encoded_BUV[row, frame, 3 + 2 * last] = 10.0
            elif before != -1:
                encoded_BUV[row, frame, 4 + 2 * before] = 10.0
    return encoded_BUV, history_BU


class _Table:
    vocab_size = len(PIECES)

    def piece(self, index: int) -> str:
        return PIECES[index]


def spotter_parts(context: Context) -> Parts:
    return Parts(Spotter(), _Table(), context)  # type: ignore[arg-type]


def make_spotter(context: Context, **options: object) -> StreamingRecognizer:
    return StreamingRecognizer(spotter_parts(context), **options)  # type: ignore[arg-type]


def spoken(words: list[int], samples: list[int]) -> NDArray[np.float32]:
    """Tones of the given lengths with 400 ms of silence between them, and none at the end."""
    parts = []
    for tone, length in zip(words, samples, strict=True):
        parts += [np.zeros(6400), 0.3 * np.sin(2 * np.pi * HERTZ[tone] * np.arange(length) / 16000)]
    return np.concatenate(parts).astype(np.float32)
