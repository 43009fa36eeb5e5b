"""Bursts of noise that hide a phone or a syllable: the rest of the sentence must tell which word it was."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdasr.corpora.synthetic.noise import Samples, colored_noise

# Shapes: N samples.


@dataclass(frozen=True)
class Bursts:
    """How often, how long and how loud."""

    word_share: float
    """Share of the words that a burst falls into."""
    seconds: tuple[float, float]
    """Limits of its length: a phone of this speech lasts about 0.08 s. Never longer than its word."""
    snr_db: tuple[float, float]
    """Limits of what it covers against it, by power."""
    slope_db: tuple[float, float] = (-4.0, -1.0)
    """Limits of its color, dB per octave: it hides vowels and fricatives alike."""


def add_bursts(
    samples_N: Samples, words: Sequence[tuple[int, int]], bursts: Bursts, rng: np.random.Generator
) -> Samples:
    """The samples with a burst somewhere within some of the words. Everything else stays as it was.

    Args:
        samples_N: 16 kHz, with the words in them.
        words: first and one-past-last sample of each word.
        bursts: what to draw from.
        rng: the utterance's own generator.
    """
    noisy_N = samples_N.copy()
    for start, end in words:
        if rng.random() >= bursts.word_share:
            continue
        length = min(int(rng.uniform(*bursts.seconds) * 16000), end - start)
        first = int(rng.integers(start, end - length + 1))
        covered_N = samples_N[first : first + length]
        noise_N = colored_noise(length, rng.uniform(*bursts.slope_db), rng)
        gain = np.sqrt(np.mean(covered_N**2) * 10 ** (-rng.uniform(*bursts.snr_db) / 10))
        noisy_N[first : first + length] += gain * noise_N
    return noisy_N
