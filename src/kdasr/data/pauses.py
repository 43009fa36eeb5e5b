"""Features of stretches in which nobody speaks, and of utterances made louder or softer.

Everything here is done on log-mel energies. A gain is exact there: it adds a constant to each, down to the
energy of digital silence.

Shapes: T feature frames, F mel bins, N samples, K frames of a pause.
"""

import math
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdasr.data.features import FRAME_SHIFT_SECONDS, NUM_MEL_BINS, SAMPLE_RATE, compute_features

SILENCE = "silence"
BACKGROUND = "background"
COLORS = ("white", "pink", "brown")
"""Noises whose power per Hz falls with the frequency f as 1, 1 / f and 1 / f^2."""
LOWEST_LOG_ENERGY = math.log(np.finfo(np.float32).eps)
"""Log energy of digital silence: Kaldi's features have this floor, and so have ours."""
_NOISE_SECONDS = 20
_QUIET_SHARE = 0.1
"""Share of an utterance's frames that are taken for its background where its word times are not known."""

Floats = NDArray[np.float32]


def with_gain(features: Tensor, gain_db: Tensor | float) -> Tensor:
    """Features of the same signal with another gain, in dB, which broadcasts."""
    return (features + gain_db * (math.log(10.0) / 10.0)).clamp(min=LOWEST_LOG_ENERGY)


def pause_features(
    kind: str, level_db: float, num_frames: int, background_TF: Tensor | None, generator: torch.Generator
) -> Tensor:
    """Features (K, F) of a pause.

    Args:
        kind: `silence` (digital), `background` or a color of noise.
        level_db: of noise, in dB below a square wave of full scale.
        num_frames: K.
        background_TF: frames to draw `background` from; without any it is digital silence.
        generator: draws the frames.
    """
    silent_KF = torch.full((num_frames, NUM_MEL_BINS), LOWEST_LOG_ENERGY)
    if kind in COLORS:
        noise_TF = _noise(kind)
        start = int(torch.randint(len(noise_TF), (), generator=generator))
        places_K = (start + torch.arange(num_frames)) % len(noise_TF)
        return with_gain(noise_TF[places_K], level_db)
    if kind == BACKGROUND and background_TF is not None and len(background_TF):
        picks_K = torch.randint(len(background_TF), (num_frames,), generator=generator)
        return background_TF[picks_K]
    return silent_KF


def in_noise(features_TF: Tensor, speech: list[Tensor], snr_db: float, generator: torch.Generator) -> Tensor:
    """Features (T, F) of the same signal in one noise of a random color.

    Powers of signals that have nothing to do with each other add up; of log energies that is the logarithm of
    the sum of their exponentials.

    Args:
        features_TF: the signal.
        speech: features of the utterances in it, at least one.
        snr_db: mean power of the softest of them over that of the noise, in dB.
        generator: draws color and frames.
    """
    color = COLORS[int(torch.randint(len(COLORS), (), generator=generator))]
    noise_TF = pause_features(color, 0.0, len(features_TF), None, generator)
    softest = min(float(part_TF.exp().sum(dim=1).mean()) for part_TF in speech)
    level_db = 10 * math.log10(softest / float(_noise(color).exp().sum(dim=1).mean())) - snr_db
    return torch.logaddexp(features_TF, with_gain(noise_TF, level_db))


def background_frames(features_TF: Tensor, words: list[tuple[float, float]]) -> Tensor:
    """Frames of an utterance in which nobody speaks: those outside all words, or else the quietest tenth.

    `words`: start and end of each word in seconds; empty when they are not known.
    """
    spoken_T = torch.zeros(len(features_TF), dtype=torch.bool)
    for start, end in words:
        # A frame's window reaches 12.5 ms beyond its center: two frames of margin.
        first, last = int(start / FRAME_SHIFT_SECONDS), math.ceil(end / FRAME_SHIFT_SECONDS)
        spoken_T[max(0, first - 2) : last + 2] = True
    quiet_TF = features_TF[~spoken_T]
    if words and len(quiet_TF) >= 3:
        return quiet_TF
    count = max(1, int(_QUIET_SHARE * len(features_TF)))
    return features_TF[features_TF.mean(dim=1).argsort()[:count]]


@cache
def _noise(color: str) -> Tensor:
    """Features (T, F) of noise with a mean square of 1."""
    white_N = np.random.default_rng(COLORS.index(color)).standard_normal(_NOISE_SECONDS * SAMPLE_RATE)
    spectrum = np.fft.rfft(white_N)
    frequencies = np.fft.rfftfreq(len(white_N), 1 / SAMPLE_RATE)
    # Flat below 20 Hz, where the features hear nothing.
    spectrum /= np.maximum(frequencies, 20.0) ** (COLORS.index(color) / 2)
    noise_N = np.fft.irfft(spectrum)
    noise_N /= np.sqrt(np.mean(noise_N**2))
    return compute_features(torch.from_numpy(noise_N.astype(np.float32)))
