"""Kaldi's log-mel filter bank, over the frames of many signals at a time.

What kaldi-native-fbank computes one frame after another, as operations on blocks of frames: mean taken off,
pre-emphasis, Povey window, power spectrum of 512 points, triangles on the mel scale, logarithm. Pre-emphasis
leaves 1 - 0.97 of a constant, so the mean can be taken off after it, and signals are emphasized as a whole:
the first sample of a frame, which Kaldi treats in its own way, has weight zero in a Povey window.

Shapes: B signals, N samples, X frames of all signals, L samples of a frame, K real and imaginary parts, F mel
bins.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdasr.data.features import (
    FRAME_LENGTH_SAMPLES,
    FRAME_SHIFT_SAMPLES,
    NUM_MEL_BINS,
    SAMPLE_RATE,
)

Signal = NDArray[np.float32]

_POINTS = 512
"""Of the Fourier transform: the power of two after a frame's length."""
_PREEMPHASIS = 0.97
_LOWEST_HZ, _HIGHEST_HZ = 20.0, SAMPLE_RATE / 2 - 400.0
_BLOCK = 256
"""Frames at a time: half a megabyte of them, which stays in the cache."""
_FLOOR = float(np.finfo(np.float32).eps)


def num_frames(signal: Signal) -> int:
    """Whole frames in a signal, the first at its beginning."""
    return max(0, (len(signal) - FRAME_LENGTH_SAMPLES) // FRAME_SHIFT_SAMPLES + 1)


def log_mel(signals: Sequence[Signal]) -> NDArray[np.float32]:
    """Log-mel energies (X, F) of the whole frames of some signals, one signal after the other.

    Args:
        signals: at 16 kHz, in [-1, 1]. Their frames have 400 samples, one every 160 samples.
    """
    energies_XF = torch.empty(sum(map(num_frames, signals)), NUM_MEL_BINS)
    done = 0
    for block in _blocks(signals):
        windowed_XL = _windowed(block)
        _log_mel(windowed_XL, energies_XF[done : done + len(windowed_XL)])
        done += len(windowed_XL)
    return energies_XF.numpy()


def _blocks(signals: Sequence[Signal]) -> Iterator[list[Signal]]:
    """The signals, or pieces of long ones, in groups of at most `_BLOCK` frames."""
    block: list[Signal] = []
    room = _BLOCK
    for signal in signals:
        count, begin = num_frames(signal), 0
        while begin < count:
            end = min(count, begin + room)
            last = (end - 1) * FRAME_SHIFT_SAMPLES + FRAME_LENGTH_SAMPLES
            block.append(signal[begin * FRAME_SHIFT_SAMPLES : last])
            room, begin = room - (end - begin), end
            if not room:
                yield block
                block, room = [], _BLOCK
    if block:
        yield block


def _windowed(block: Sequence[Signal]) -> Tensor:
    """The frames (X, 512) of some signals, ready for the Fourier transform."""
    counts = [num_frames(signal) for signal in block]
    windowed_XL = np.empty((sum(counts), _POINTS), dtype=np.float32)
    windowed_XL[:, FRAME_LENGTH_SAMPLES:] = 0.0
    sums_X = np.empty(len(windowed_XL), dtype=np.float32)
    window_L, constant_L = _window()
    begin = 0
    for count, group in groupby(block, num_frames):  # mostly all of them
        length = (count - 1) * FRAME_SHIFT_SAMPLES + FRAME_LENGTH_SAMPLES
        signals_BN = np.stack([signal[:length] for signal in group])
        shape = (len(signals_BN), count)
        end = begin + len(signals_BN) * count
        np.add.reduce(_frames(signals_BN, count), axis=2, out=sums_X[begin:end].reshape(shape))
        emphasized_BN = signals_BN.copy()
        emphasized_BN[:, 1:] -= np.float32(_PREEMPHASIS) * signals_BN[:, :-1]
        frames_XL = windowed_XL[begin:end].reshape(*shape, _POINTS)[:, :, :FRAME_LENGTH_SAMPLES]
        np.multiply(_frames(emphasized_BN, count), window_L, out=frames_XL)
        begin = end
    windowed = torch.from_numpy(windowed_XL)
    sums_X1 = torch.from_numpy(sums_X).unsqueeze(1)
    windowed[:, :FRAME_LENGTH_SAMPLES].addcmul_(sums_X1, constant_L, value=-1 / FRAME_LENGTH_SAMPLES)
    return windowed


def _frames(signals_BN: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Their first frames (B, count, L), a view."""
    stride, item = signals_BN.strides
    return np.ndarray(
        (len(signals_BN), count, FRAME_LENGTH_SAMPLES),
        np.float32,
        buffer=signals_BN,
        strides=(stride, FRAME_SHIFT_SAMPLES * item, item),
    )


def _log_mel(windowed_XL: Tensor, out_XF: Tensor) -> None:
    parts_XK = torch.view_as_real(torch.fft.rfft(windowed_XL)).flatten(1)
    torch.mm(parts_XK.square_(), _triangles(), out=out_XF)
    out_XF.clamp_(min=_FLOOR).log_()


@cache
def _window() -> tuple[NDArray[np.float32], Tensor]:
    """The weights (L,), and what they leave of a constant 1 after pre-emphasis (L,)."""
    place_L = np.arange(FRAME_LENGTH_SAMPLES) / (FRAME_LENGTH_SAMPLES - 1)
    window_L = (0.5 - 0.5 * np.cos(2 * np.pi * place_L)) ** 0.85
    constant_L = torch.from_numpy(((1 - _PREEMPHASIS) * window_L).astype(np.float32))
    return window_L.astype(np.float32), constant_L


@cache
def _triangles() -> Tensor:
    """Weights (K, F) of the squared parts of the spectrum in each mel bin."""
    low, high = _mel(np.array([_LOWEST_HZ, _HIGHEST_HZ]))
    edges = low + (high - low) / (NUM_MEL_BINS + 1) * np.arange(NUM_MEL_BINS + 2)
    at = _mel(np.arange(_POINTS // 2) * SAMPLE_RATE / _POINTS)[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    weights = np.minimum(rising, falling).clip(min=0.0)
    with_nyquist = np.concatenate([weights, np.zeros((1, NUM_MEL_BINS))])  # which Kaldi leaves out
    return torch.from_numpy(np.repeat(with_nyquist, 2, axis=0).astype(np.float32))


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1127.0 * np.log1p(hertz / 700.0)
