"""How long somebody speaks in a recording, by its energy alone.

The rule: blocks of 32 ms are active when their level is at least 9 dB above the floor (the level that a tenth
of the blocks stay below), at most 30 dB below the loud ones (which a twentieth of the blocks exceed), and
above -60 dBFS. Single active blocks do not count, and gaps of up to 0.2 s between active ones do. Silence and
stationary noise of any level have no activity: their loud blocks are not 9 dB above their floor. Music has;
what a labeler hears in it is left to the other filters.
"""

# Shapes: N samples, K blocks.

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kdasr.data.audio_reading import SAMPLE_RATE

BLOCK = 512
ABOVE_FLOOR_DB, BELOW_LOUD_DB, LOWEST_DBFS = 9.0, 30.0, -60.0
FLOOR_SHARE, LOUD_SHARE = 0.1, 0.95
LONGEST_GAP = 0.2
_TINY = 1e-13


def active_seconds(samples_N: NDArray[np.float32]) -> float:
    """Seconds of activity in a recording at 16 kHz; see the module."""
    count = len(samples_N) // BLOCK
    if count < 2:
        return 0.0
    power_K = np.square(samples_N[: count * BLOCK].reshape(count, BLOCK), dtype=np.float64).mean(axis=1)
    level_K = 10 * np.log10(power_K + _TINY)
    floor, loud = np.quantile(level_K, [FLOOR_SHARE, LOUD_SHARE])
    lowest = max(floor + ABOVE_FLOOR_DB, loud - BELOW_LOUD_DB, LOWEST_DBFS)
    active_K = level_K >= lowest
    padded_K = np.concatenate([[False], active_K, [False]])
    active_K &= padded_K[:-2] | padded_K[2:]
    _close_gaps(active_K, round(LONGEST_GAP * SAMPLE_RATE / BLOCK))
    return float(active_K.sum()) * BLOCK / SAMPLE_RATE


def _close_gaps(active_K: NDArray[np.bool_], longest: int) -> None:
    places = np.flatnonzero(active_K)
    for left, right in pairwise(places.tolist()):
        if right - left - 1 <= longest:
            active_K[left:right] = True
