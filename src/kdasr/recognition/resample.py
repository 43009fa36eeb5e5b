"""Sample-rate conversion of a stream: the same output whatever the packets it arrives in."""

from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from kdasr.recognition.audio import check_rate

# Shapes: M output samples, P phases, K taps.

Samples = NDArray[np.float32]

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_BLOCK = 1 << 12
"""Output samples that are computed at a time: each has a row of inputs and a row of weights meanwhile."""


class StreamingResampler:
    """Band-limited interpolation (Smith and Gossett 1984) with a Hann-windowed sinc.

    Filter and length are those of `torchaudio.functional.resample` (its defaults), which computes whole
    signals; here each output sample is computed as soon as its inputs have arrived, with a look-ahead of
    about six samples of the lower rate.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        """
        Args:
            from_rate: Hz.
            to_rate: Hz. Without common factors with `from_rate`, the filter has that many phases.

        Raises:
            UserError: a rate that is none (see `check_rate`).
        """
        from_rate, to_rate = check_rate(from_rate), check_rate(to_rate)
        divisor = gcd(from_rate, to_rate)
        self._from, self._to = from_rate // divisor, to_rate // divisor
        cutoff = _ROLLOFF * min(1.0, self._to / self._from)  # relative to the input's Nyquist frequency
        self._reach = ceil(_ZERO_CROSSINGS / cutoff)
        self._weights_PK = self._filter(cutoff)
        self._buffer = np.zeros(self._reach)  # the signal starts after silence
        self._buffer_start = -self._reach
        self._received = 0
        self._produced = 0

    def _filter(self, cutoff: float) -> NDArray[np.float64]:
        """Weights of the inputs around an output that lies `phase / P` after an input sample."""
        taps_K = np.arange(-self._reach, self._reach + 2)
        position_PK = cutoff * (taps_K - np.arange(self._to)[:, None] / self._to)
        position_PK = position_PK.clip(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
        window_PK = np.cos(position_PK * np.pi / _ZERO_CROSSINGS / 2) ** 2
        return cutoff * np.sinc(position_PK) * window_PK

    def push(self, samples: Samples) -> Samples:
        """Take the next input samples; return the output samples that are now certain."""
        self._buffer = np.concatenate([self._buffer, samples])
        self._received += len(samples)
        last_center = self._received - 2 - self._reach
        return self._produce(max(0, ((last_center + 1) * self._to + self._from - 1) // self._from))

    def flush(self) -> Samples:
        """The rest of the output, as if silence followed: `ceil(inputs * to / from)` samples in all."""
        self._buffer = np.concatenate([self._buffer, np.zeros(self._reach + 2)])
        return self._produce(-(-self._received * self._to // self._from))

    def _produce(self, end: int) -> Samples:
        """Output samples from the last one produced up to `end`, and forget the inputs behind them."""
        if end <= self._produced:
            return np.zeros(0, dtype=np.float32)
        outputs_M = np.empty(end - self._produced, dtype=np.float32)
        for start in range(0, len(outputs_M), _BLOCK):
            block = outputs_M[start : start + _BLOCK]
            block[:] = self._outputs(self._produced + start, len(block))
        self._produced = end
        keep = end * self._from // self._to - self._reach - self._buffer_start
        self._buffer = self._buffer[keep:]
        self._buffer_start += keep
        return outputs_M

    def _outputs(self, first: int, count: int) -> NDArray[np.float64]:
        """`count` output samples from number `first` on."""
        position_M = np.arange(first, first + count) * self._from
        first_M = position_M // self._to - self._reach - self._buffer_start
        inputs_MK = self._buffer[first_M[:, None] + np.arange(self._weights_PK.shape[1])]
        outputs_M: NDArray[np.float64] = (inputs_MK * self._weights_PK[position_M % self._to]).sum(axis=1)
        return outputs_M


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Convert a whole signal: what `StreamingResampler` gives for any packets of it."""
    if from_rate == to_rate:
        return samples
    resampler = StreamingResampler(from_rate, to_rate)
    return np.concatenate([resampler.push(samples), resampler.flush()])
