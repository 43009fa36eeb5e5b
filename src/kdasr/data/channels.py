"""Several channels made one."""

# Shapes: N samples, C channels.

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

CANCELED_DB = -10.0
"""Power of a mix against the mean power of its channels. Two channels that have nothing in common give -3."""


class ChannelMixer:
    """The mean of the channels, block by block, or the loudest alone while they cancel each other.

    A microphone with one inverted wire gives two channels that sum to nearly nothing. What counts is the
    power of all blocks so far.
    """

    def __init__(self) -> None:
        self._mixed = 0.0
        self._power_C = np.zeros(1)
        self._loudest: int | None = None

    def push(self, samples_NC: Samples) -> Samples:
        """Mix the next samples to one channel (N,)."""
        mixed_N = samples_NC.mean(axis=1, dtype=np.float32)
        if samples_NC.shape[1] < 2:
            return mixed_N
        self._power_C = self._power_C + np.square(samples_NC, dtype=np.float64).sum(axis=0)
        self._mixed += float(np.square(mixed_N, dtype=np.float64).sum())
        if not self._mixed < 10 ** (CANCELED_DB / 10) * self._power_C.mean():
            return mixed_N
        self._loudest = int(self._power_C.argmax())
        return np.ascontiguousarray(samples_NC[:, self._loudest], dtype=np.float32)

    @property
    def fault(self) -> str | None:
        """What happened, when channels have canceled."""
        if self._loudest is None:
            return None
        channel = f"channel {self._loudest + 1} of {len(self._power_C)}"
        return f"channels cancel when they are mixed: {channel} is taken alone"


def mix_down(samples_NC: Samples) -> tuple[Samples, str | None]:
    """One channel (N,) of a whole recording, and what was wrong with its channels."""
    mixer = ChannelMixer()
    return mixer.push(samples_NC), mixer.fault
