"""Stationary noise, and noise against speech by signal-to-noise ratio."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft

# Shapes: N samples, F frequencies.

Samples = NDArray[np.float64]


def active_power(samples_N: Samples) -> float:
    """Mean square of the samples, pauses left out.

    A pause is a 20 ms frame more than 40 dB under the loudest one.
    """
    frame = 320
    usable = len(samples_N) // frame * frame
    if usable == 0:
        return float(np.mean(samples_N**2)) if len(samples_N) else 0.0
    powers = np.mean(samples_N[:usable].reshape(-1, frame) ** 2, axis=1)
    return float(np.mean(powers[powers >= 1e-4 * powers.max()]))


def colored_noise(length: int, slope_db: float, rng: np.random.Generator) -> Samples:
    """Stationary Gaussian noise of unit power whose spectrum falls by `slope_db` per octave above 50 Hz."""
    padded = fft.next_fast_len(length, real=True)
    spectrum_F = fft.rfft(rng.standard_normal(padded))
    frequency_F = np.maximum(fft.rfftfreq(padded, 1 / 16000), 50.0)
    spectrum_F *= frequency_F ** (slope_db / (20 * np.log10(2)))
    noise_N = fft.irfft(spectrum_F, padded)[:length]
    return noise_N / np.sqrt(np.mean(noise_N**2))


def add_noise(speech_N: Samples, noise_N: Samples, snr_db: float) -> Samples:
    """Speech plus noise scaled to `snr_db` below the power of the active speech."""
    noise_power = float(np.mean(noise_N**2))
    gain = np.sqrt(active_power(speech_N) / noise_power * 10 ** (-snr_db / 10))
    return speech_N + gain * noise_N
