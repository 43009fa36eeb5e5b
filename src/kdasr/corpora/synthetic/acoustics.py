"""Rooms and noise: reverberation by direct-to-reverberant ratio, noise by signal-to-noise ratio."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import signal

from kdasr.corpora.synthetic.bursts import Bursts, add_bursts
from kdasr.corpora.synthetic.noise import Samples, add_noise, colored_noise

# Shapes: N samples.


@dataclass(frozen=True)
class Surroundings:
    """Limits (low, high) between which an utterance's acoustics are drawn."""

    snr_db: tuple[float, float]
    """Active speech against noise."""
    drr_db: tuple[float, float] | None = None
    """Direct sound against reverberation; None: a dry recording. Below 4 dB small models learn nothing."""
    room_share: float = 1.0
    """Share of the utterances with reverberation, where `drr_db` asks for any."""
    reverberation_seconds: tuple[float, float] = (0.2, 0.5)
    """Time in which the reverberation decays by 60 dB."""
    slope_db: tuple[float, float] = (-6.0, 0.0)
    """Color of the noise, dB per octave: 0 white, -3 pink, -6 brown."""
    babble_share: float = 0.0
    """Share of the utterances whose noise is many people talking."""
    bursts: Bursts | None = None
    """Short noises that hide parts of words."""
    lead_seconds: tuple[float, float] = (0.1, 0.4)
    """Quiet before the first word."""


CLEAN = Surroundings(snr_db=(22.0, 40.0))
OTHER = Surroundings(snr_db=(14.0, 26.0), drr_db=(4.0, 16.0), babble_share=0.4)


def room_response(drr_db: float, reverberation_seconds: float, rng: np.random.Generator) -> Samples:
    """A room: the direct sound at sample 0, then noise that decays exponentially (Polack 1988).

    The energy after sample 0 is `drr_db` below that of the direct sound; reflections begin 2 to 8 ms later.
    The direct sound comes first, so word times stay true.
    """
    length = int(16000 * reverberation_seconds)
    gap = int(rng.integers(32, 128))
    tail_N = rng.standard_normal(length) * np.exp(-np.log(1000.0) * np.arange(length) / length)
    tail_N[:gap] = 0.0
    tail_N *= np.sqrt(10 ** (-drr_db / 10) / np.sum(tail_N**2))
    tail_N[0] = 1.0
    return tail_N


def reverberate(samples_N: Samples, response_N: Samples) -> Samples:
    """The samples as heard in a room, as long as they were."""
    return signal.oaconvolve(samples_N, response_N)[: len(samples_N)]


def apply_surroundings(
    speech_N: Samples,
    words: Sequence[tuple[int, int]],
    limits: Surroundings,
    babble_N: Samples | None,
    rng: np.random.Generator,
) -> Samples:
    """Put padded speech into a room and noise drawn from `limits`.

    Args:
        speech_N: 16 kHz.
        words: first and one-past-last sample of each word.
        limits: what to draw from.
        babble_N: a recording to cut babble from; None when `limits` asks for none.
        rng: the utterance's own generator.
    """
    if limits.drr_db is not None and (limits.room_share == 1.0 or rng.random() < limits.room_share):
        drr_db, seconds = rng.uniform(*limits.drr_db), rng.uniform(*limits.reverberation_seconds)
        speech_N = reverberate(speech_N, room_response(drr_db, seconds, rng))
    snr_db = rng.uniform(*limits.snr_db)
    if rng.random() < limits.babble_share:
        assert babble_N is not None
        start = int(rng.integers(len(babble_N)))
        noise_N = np.take(babble_N, np.arange(start, start + len(speech_N)), mode="wrap")
    else:
        noise_N = colored_noise(len(speech_N), rng.uniform(*limits.slope_db), rng)
    mixed_N = add_noise(speech_N, noise_N, snr_db)
    return mixed_N if limits.bursts is None else add_bursts(mixed_N, words, limits.bursts, rng)
