"""Features of stretches in which nobody speaks, and of utterances made louder or softer.

Everything here is done on log-mel energies. A gain is exact there: it adds a constant to each, down to the
energy of digital silence.

Shapes: T feature frames, F mel bins, N samples, K frames of a pause.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdasr.common.feature_frames import KALDI
from kdasr.data.features import (
    FRAME_SHIFT_SECONDS,
    LOWEST_LOG_ENERGY,
    NUM_MEL_BINS,
    SAMPLE_RATE,
    compute_features,
    lowest_log_energy,
)

SILENCE = "silence"
BACKGROUND = "background"
COLORS = ("white", "pink", "brown")
"""Noises whose power per Hz falls with the frequency f as 1, 1 / f and 1 / f^2."""
_NOISE_SECONDS = 20
_QUIET_SHARE = 0.1
"""Share of an utterance's frames that are taken for its background where its word times are not known."""


def with_gain(features: Tensor, gain_db: Tensor | float, lowest: float = LOWEST_LOG_ENERGY) -> Tensor:
    """Features of the same signal with another gain, in dB, which broadcasts; none is below `lowest`."""
    return (features + gain_db * (math.log(10.0) / 10.0)).clamp(min=lowest)


class Pause(NamedTuple):
    """What is heard where nobody speaks."""

    kind: str
    """`silence` (digital), `background` or a color of noise."""
    level_db: float
    """Of noise, in dB below a square wave of full scale."""
    num_frames: int
    """K."""


def pause_features(
    pause: Pause, background_TF: Tensor | None, generator: torch.Generator, features: str = KALDI
) -> Tensor:
    """Features (K, F) of a pause.

    Args:
        pause: which.
        background_TF: frames to draw `background` from; without any it is digital silence.
        generator: draws the frames.
        features: their kind. Of the same state of the generator, all kinds draw the same frames.
    """
    kind, level_db, num_frames = pause
    if kind in COLORS:
        noise_TF = _noise(kind, features)
        start = int(torch.randint(len(noise_TF), (), generator=generator))
        places_K = (start + torch.arange(num_frames)) % len(noise_TF)
        return with_gain(noise_TF[places_K], level_db, lowest_log_energy(features))
    if kind == BACKGROUND and background_TF is not None and len(background_TF):
        picks_K = torch.randint(len(background_TF), (num_frames,), generator=generator)
        return background_TF[picks_K]
    return torch.full((num_frames, NUM_MEL_BINS), lowest_log_energy(features))


def noise_under(num_frames: int, speech: list[Tensor], snr_db: float, generator: torch.Generator) -> Tensor:
    """Features (T, F) of one noise of a random color, which lies under speech.

    Powers of signals that have nothing to do with each other add up; of log energies that is the logarithm of
    the sum of their exponentials: `torch.logaddexp(features_TF, noise_TF)`.

    Args:
        num_frames: T.
        speech: features of the utterances in the noise, at least one.
        snr_db: mean power of the softest of them over that of the noise, in dB.
        generator: draws color and frames.
    """
    color = COLORS[int(torch.randint(len(COLORS), (), generator=generator))]
    noise_TF = pause_features(Pause(color, 0.0, num_frames), None, generator)
    level_db = 10 * math.log10(min(map(_power, speech)) / _noise_power(color)) - snr_db
    return with_gain(noise_TF, level_db)


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


def _power(features_TF: Tensor) -> float:
    """Mean over the frames of the energies of all bins together."""
    return float(features_TF.exp().sum(dim=1).mean())


@cache
def _noise_power(color: str) -> float:
    return _power(_noise(color))


@cache
def _noise(color: str, features: str = KALDI) -> Tensor:
    """Features (T, F) of noise with a mean square of 1."""
    white_N = np.random.default_rng(COLORS.index(color)).standard_normal(_NOISE_SECONDS * SAMPLE_RATE)
    spectrum = np.fft.rfft(white_N)
    frequencies = np.fft.rfftfreq(len(white_N), 1 / SAMPLE_RATE)
    # Flat below 20 Hz, where the features hear nothing.
    spectrum /= np.maximum(frequencies, 20.0) ** (COLORS.index(color) / 2)
    noise_N = np.fft.irfft(spectrum)
    noise_N /= np.sqrt(np.mean(noise_N**2))
    return compute_features(torch.from_numpy(noise_N.astype(np.float32)), features)
