"""Several channels made one."""

# Shapes: N samples, C channels.

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

CANCELLED_DB = -10.0
"""Power of a mix against the mean power of its channels. Two channels that have nothing in common give -3."""


def mix_down(samples_NC: Samples) -> tuple[Samples, str | None]:
    """The mean of the channels (N,), or the loudest alone where they cancel; then also what happened.

    A microphone with one inverted wire gives two channels that sum to nearly nothing.
    """
    mixed_N = samples_NC.mean(axis=1, dtype=np.float32)
    if samples_NC.shape[1] < 2 or not len(samples_NC):
        return mixed_N, None
    power_C = np.square(samples_NC, dtype=np.float64).mean(axis=0)
    mixed = float(np.square(mixed_N, dtype=np.float64).mean())
    if not mixed < 10 ** (CANCELLED_DB / 10) * power_C.mean():
        return mixed_N, None
    loudest = int(power_C.argmax())
    fault = f"channels cancel when they are mixed: channel {loudest + 1} of {len(power_C)} is taken alone"
    return np.ascontiguousarray(samples_NC[:, loudest], dtype=np.float32), fault
