"""Whether a recording is what a recognizer can hear: its level, clipping, and the band that it fills.

A recognizer that says little or nothing wrong does not say why. The usual reasons are in the signal: too
quiet, clipped, channels that cancel each other, or a telephone's band in a file of 16 kHz.
"""

# Shapes: N samples, K blocks, F frequencies, L levels.

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.data.features import SAMPLE_RATE

Samples = NDArray[np.float32]

BLOCK = 512
"""Samples of a block: 32 ms at 16 kHz."""
FULL_SCALE = 0.999
QUIET_DBFS = -36.0
"""Speech below this is too quiet: 10 dB under the usual -26 dBFS (ITU-T P.56). Of 1,834 utterances of public
corpora, 4 are below."""
SILENT_DBFS = -75.0
"""Nothing of this level is speech."""
CLIPPED_SHARE = 1e-3
NARROW_DB = -44.0
"""Power density of 5.5 to 7.5 kHz against that of 1 to 3.5 kHz. Speech at 16 kHz has -27 or more (-40 from
some telephone apps), speech that was sampled at 8 kHz -48 or less."""
SHORTEST = 0.3
"""Seconds; of less audio nothing is said."""
_ACTIVE_DB = 15
"""Blocks that are at most this far below the loud ones count as speech."""
_LOWEST_DB, _NUM_LEVELS = -130, 160
_LOUD_SHARE, _LOUD_BLOCKS = 0.05, SAMPLE_RATE // (2 * BLOCK)
_BLOCKS_AT_ONCE = 32
_TINY = 1e-13


@dataclass(frozen=True)
class SignalReport:
    """What was measured of a recording."""

    seconds: float
    level_dbfs: float
    """Mean power of the blocks that are speech, relative to full scale (a square wave has 0 dBFS)."""
    clipped_share: float
    """Of the samples, those at or beyond full scale."""
    upper_band_db: float
    """Power density of 5.5 to 7.5 kHz against that of 1 to 3.5 kHz, where there is speech."""

    @property
    def faults(self) -> dict[str, str]:
        """What is wrong with it, and a line about each: `silent`, `too quiet`, `clipped`, `band-limited`."""
        level = f"{self.level_dbfs:.0f} dBFS"
        if self.seconds < SHORTEST:
            return {}
        if self.level_dbfs < SILENT_DBFS:
            return {"silent": f"silent: nothing above {level}"}
        found = {}
        if self.level_dbfs < QUIET_DBFS:
            found["too quiet"] = f"too quiet: speech at {level}, -30 to -15 are usual: amplify it"
        if self.clipped_share > CLIPPED_SHARE:
            share = f"{100 * self.clipped_share:.1f} % of the samples at full scale, speech at {level}"
            found["clipped"] = f"clipped: {share}: record at a lower level"
        if self.upper_band_db < NARROW_DB:
            found["band-limited"] = (
                f"band-limited: nothing above 4 or 5 kHz ({self.upper_band_db:.0f} dB), as from a telephone "
                "or sampled at 8 kHz: expect more errors"
            )
        return found


class SignalMeter:
    """Measures a signal at 16 kHz packet by packet, in constant memory."""

    def __init__(self) -> None:
        self._waiting: list[Samples] = []
        self._num_waiting = self._num_samples = self._num_clipped = 0
        # By level in dB: blocks, and the sums of their power, in all and in the two bands.
        self._sums_4L = np.zeros((4, _NUM_LEVELS))
        frequency_F = np.fft.rfftfreq(BLOCK, 1 / SAMPLE_RATE)
        self._window_N = np.hanning(BLOCK).astype(np.float32)
        self._low = slice(*np.searchsorted(frequency_F, [1000, 3500]))
        self._high = slice(*np.searchsorted(frequency_F, [5500, 7500]))

    def add(self, samples_N: Samples) -> None:
        """Measure the next samples, floats in [-1, 1]."""
        self._waiting.append(samples_N)
        self._num_waiting += len(samples_N)
        if self._num_waiting >= _BLOCKS_AT_ONCE * BLOCK:
            self._measure()

    def _measure(self) -> None:
        """Measure what waits, but for an incomplete block at the end."""
        joined_N = np.concatenate([*self._waiting, np.zeros(0, np.float32)])
        whole = len(joined_N) // BLOCK * BLOCK
        self._waiting, self._num_waiting = [joined_N[whole:]], len(joined_N) - whole
        self._num_samples += whole
        self._num_clipped += int(np.count_nonzero(np.abs(joined_N[:whole]) >= FULL_SCALE))
        blocks_KN = joined_N[:whole].reshape(-1, BLOCK)
        power_K = np.square(blocks_KN, dtype=np.float64).mean(axis=1)
        level_K = (10 * np.log10(power_K + _TINY) - _LOWEST_DB).clip(0, _NUM_LEVELS - 1).astype(int)
        spectrum_KF = np.fft.rfft(blocks_KN * self._window_N)
        low_K, high_K = (_mean_power(spectrum_KF[:, band]) for band in (self._low, self._high))
        for sums_L, values_K in zip(self._sums_4L, (None, power_K, low_K, high_K), strict=True):
            sums_L += np.bincount(level_K, values_K, _NUM_LEVELS)

    def report(self) -> SignalReport:
        """What was measured so far."""
        self._measure()
        count_L = self._sums_4L[0]
        # The loudest twentieth, half a second at most: a word in a long recording counts, not the pauses.
        rank = min(_LOUD_SHARE * float(count_L.sum()), _LOUD_BLOCKS)
        loud = _NUM_LEVELS - 1 - int(np.searchsorted(count_L[::-1].cumsum(), max(rank, 1.0)))
        count, power, low, high = self._sums_4L[:, max(0, loud - _ACTIVE_DB) :].sum(axis=1).tolist()
        return SignalReport(
            seconds=(self._num_samples + self._num_waiting) / SAMPLE_RATE,
            level_dbfs=_decibel(power / max(1.0, count)),
            clipped_share=self._num_clipped / max(1, self._num_samples),
            upper_band_db=_decibel(high / low) if low > 0 else 0.0,
        )


def measure_signal(samples_N: Samples) -> SignalReport:
    """Measure a whole recording at 16 kHz, floats in [-1, 1]."""
    meter = SignalMeter()
    meter.add(samples_N)
    return meter.report()


def _mean_power(spectrum_KF: NDArray[Any]) -> NDArray[Any]:
    """Of each block (K,)."""
    return (np.square(spectrum_KF.real) + np.square(spectrum_KF.imag)).mean(axis=1)


def _decibel(power: float) -> float:
    return 10 * float(np.log10(power + _TINY))
