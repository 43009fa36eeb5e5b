"""Log-mel features of a stream from raw samples, and how much silence ends it.

An encoder turns `stride` C + `overlap` feature frames into C encoder frames, so that a signal of F frames,
taken as it is, would leave up to `overlap` frames unseen and show its last few only to the edge of the last
encoder frame. At the end of input just enough zero samples are appended for every feature frame to lie in the
`stride` frames that some encoder frame stands for: ceil(F / `stride`) encoder frames, and `overlap` to
`overlap + stride - 1` feature frames of silence. A right context needs none: a chunk at the end sees less of
it, in streaming as in whole-utterance computation. Every path to a model, streaming or offline, goes through
this class, so that both see the same frames.

Shapes: T feature frames (10 ms), F mel bins.
"""

from collections import deque
from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import FRAME_SHIFT_SECONDS, KALDI
from kdasr.data.features import FRAME_LENGTH_SAMPLES as _WINDOW
from kdasr.data.features import FRAME_SHIFT_SAMPLES as _SHIFT
from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE, compute_features
from kdasr.data.signal_check import SignalMeter
from kdasr.models.encoders.base import Geometry
from kdasr.recognition.audio import Samples, check_rate, check_samples
from kdasr.recognition.filter_bank import log_mel, num_frames
from kdasr.recognition.resample import StreamingResampler

_BEFORE = (_WINDOW - _SHIFT) // 2
"""Samples of a frame before its 10 ms."""
_AFTER = _WINDOW - _BEFORE - _SHIFT
"""Samples of a frame after the end of its 10 ms."""
_PACKET = 10 * SAMPLE_RATE
"""Samples that are kept, and forgotten, together at most."""


def samples_for_frame(frame: int) -> int:
    """Samples (16 kHz) that must have arrived before feature frame `frame` is known.

    Frames of 25 ms are centered on their 10 ms (`snip_edges` off), so the last sample of frame t is that at
    10 t + 17.5 ms.
    """
    return (frame + 1) * _SHIFT + _AFTER


class OnlineFeatures:
    """Takes samples at any rate, in packets of any size; gives feature frames as they become known.

    A frame is computed when somebody asks for it or for a later one: `compute_frames` does it for many
    streams at once.
    """

    def __init__(
        self, geometry: Geometry, tail_seconds: float = 0.0, meter: SignalMeter | None = None
    ) -> None:
        """
        Args:
            geometry: of the encoder that they are for.
            tail_seconds: silence at the end beyond what the front end needs, for models that emit late.
            meter: measures the samples, as they are at 16 kHz.
        """
        self._geometry = geometry
        self.meter = meter
        """What measures the samples, if anything does."""
        # Rounded first: 0.28 / 0.01 is a little more than 28.
        self._tail_frames = ceil(round(tail_seconds / FRAME_SHIFT_SECONDS, 6))
        self._sample_rate: int | None = None
        self._resampler: StreamingResampler | None = None
        self._packets: deque[Samples] = deque()
        """The samples from the first one of the next frame on."""
        self._has_begun = False
        """Whether they begin with those before the input."""
        self._known_TF = np.empty((0, NUM_MEL_BINS), dtype=np.float32)
        """Frames that were computed and not discarded; the first is number `_discarded`."""
        self._discarded = 0
        self._total: int | None = None
        """Feature frames of the whole input, silence at its end included; None until it is finished."""
        self.num_samples = 0
        """Samples of speech so far, at 16 kHz, silence at the end not counted."""
        self.total_encoder_frames: int | None = None
        """Encoder frames of the whole input; None until it is finished."""

    @property
    def num_ready(self) -> int:
        """Feature frames known so far, counted from the start."""
        if self._total is not None:
            return self._total
        return max(0, (self.num_samples - _AFTER) // _SHIFT)

    @property
    def num_computed(self) -> int:
        """Of these, the frames that were computed, or that nobody wants any more."""
        return self._discarded + len(self._known_TF)

    def accept(self, sample_rate: int, samples: ArrayLike) -> None:
        """Append samples.

        Raises:
            UserError: unusable samples or rate (see `check_samples` and `check_rate`), or a rate that
                changes. The stream is as it was.
        """
        checked = check_samples(samples)
        rate = check_rate(sample_rate)
        if self._sample_rate is None:
            # Both at once: should the filter fail, the next call must not take its samples for 16 kHz.
            resampler = None if rate == SAMPLE_RATE else StreamingResampler(rate, SAMPLE_RATE)
            self._resampler, self._sample_rate = resampler, rate
        elif self._sample_rate != rate:
            raise UserError(f"sample rate changed from {self._sample_rate} to {rate} within a stream")
        self._append(self._resampler.push(checked) if self._resampler else checked)

    def finish(self) -> None:
        """End the input: append the silence described above. Under half a frame of input gives nothing."""
        if self._resampler:
            self._append(self._resampler.flush())
        spoken = (self.num_samples + _SHIFT // 2) // _SHIFT
        if spoken == 0:
            self.total_encoder_frames = self._total = 0
            return
        self.total_encoder_frames = ceil((spoken + self._tail_frames) / self._geometry.stride)
        self._total = self._geometry.window_features(self.total_encoder_frames)
        self._packets.append(np.zeros((self._total - spoken) * _SHIFT, dtype=np.float32))
        end_N = self._packets.pop()
        while self._packets and len(end_N) < _WINDOW:
            end_N = np.concatenate([self._packets.pop(), end_N])
        # As in Kaldi, what lies beyond the last sample is the mirror image of what is before it.
        self._packets.append(np.pad(end_N, (0, _WINDOW), mode="symmetric"))

    def window(self, start: int, end: int) -> NDArray[np.float32]:
        """Known feature frames from `start` to `end` (exclusive) or to the last one: (T, F)."""
        window_TF = np.empty((min(end, self.num_ready) - start, NUM_MEL_BINS), dtype=np.float32)
        self.copy_window(window_TF, start, end)
        return window_TF

    def copy_window(self, out_TF: NDArray[np.float32], start: int, end: int) -> int:
        """Copy the same frames to the first rows of `out_TF`; returns how many there are."""
        assert start >= self._discarded
        end = min(end, self.num_ready)
        if end > self.num_computed:
            compute_frames([self], [end])
        out_TF[: end - start] = self._known_TF[start - self._discarded : end - self._discarded]
        return end - start

    def discard(self, before: int) -> None:
        """Forget the frames before `before`, so that a long stream needs no more memory than a short one."""
        if before > self._discarded:
            if before > self.num_computed:
                compute_frames([self], [min(before, self.num_ready)])
            # A copy, or the frames before would be kept with it.
            self._known_TF = self._known_TF[before - self._discarded :].copy()
            self._discarded = before

    def next_signal(self, end: int) -> Samples:
        """The samples of the frames that are not computed yet, up to frame `end` (exclusive)."""
        length = (end - self.num_computed - 1) * _SHIFT + _WINDOW
        if not self._has_begun:
            first_N = self._joined(length - _BEFORE)
            self._packets[0] = np.concatenate([first_N[:_BEFORE][::-1], first_N])
            self._has_begun = True
        return self._joined(length)[:length]

    def add_frames(self, frames_TF: NDArray[np.float32]) -> None:
        """Take the frames of `next_signal`."""
        self._known_TF = np.concatenate([self._known_TF, frames_TF])
        used = len(frames_TF) * _SHIFT
        rest_N = self._packets[0][used:]
        # A copy of the little that is left, or the rest would be kept with it.
        self._packets[0] = rest_N.copy() if len(rest_N) < used else rest_N

    def _joined(self, length: int) -> Samples:
        """The first packet, after it was joined with others to have so many samples."""
        parts, found = [], 0
        while found < length:
            parts.append(self._packets.popleft())
            found += len(parts[-1])
        self._packets.appendleft(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return self._packets[0]

    def _append(self, samples: Samples) -> None:
        for start in range(0, len(samples), _PACKET):
            # A copy: the caller may use the memory again.
            self._packets.append(samples[start : start + _PACKET].copy())
            if self.meter is not None:
                self.meter.add(self._packets[-1])
        self.num_samples += len(samples)


def compute_frames(streams: Sequence[OnlineFeatures], ends: Sequence[int]) -> None:
    """Compute the frames of some streams up to `ends` (exclusive), as far as they are known, at once."""
    wanted, signals = [], []
    for stream, end in zip(streams, ends, strict=True):
        end = min(end, stream.num_ready)
        if end > stream.num_computed:
            wanted.append(stream)
            signals.append(stream.next_signal(end))
    frames_XF, begin = log_mel(signals), 0
    for stream, signal in zip(wanted, signals, strict=True):
        end = begin + num_frames(signal)
        stream.add_frames(frames_XF[begin:end])
        begin = end


class BufferedFeatures(OnlineFeatures):
    """The same for encoders whose features are of another kind: they are computed at the end of the input."""

    @property
    def num_ready(self) -> int:
        """Feature frames: none before the end."""
        return self._total or 0

    def finish(self) -> None:
        """End the input. Nothing is appended to it."""
        if self._resampler:
            self._append(self._resampler.flush())
        if self._packets:
            samples_N = torch.from_numpy(np.concatenate(self._packets))
            self._known_TF = compute_features(samples_N, self._geometry.features).numpy()
            self._packets.clear()
        self._total = len(self._known_TF)
        self.total_encoder_frames = self._geometry.num_frames(self._total)


def features_for(
    geometry: Geometry, tail_seconds: float = 0.0, meter: SignalMeter | None = None
) -> OnlineFeatures:
    """The features of a stream, of the kind that the encoder hears."""
    if geometry.features == KALDI:
        return OnlineFeatures(geometry, tail_seconds, meter)
    return BufferedFeatures(geometry, meter=meter)


def whole_features(
    sample_rate: int, samples: ArrayLike, geometry: Geometry, tail_seconds: float = 0.0
) -> NDArray[np.float32]:
    """Features of a whole signal with the silence at its end, (T, F): what a stream of it would have seen."""
    features = features_for(geometry, tail_seconds)
    features.accept(sample_rate, samples)
    features.finish()
    if not features.total_encoder_frames:
        return np.zeros((0, NUM_MEL_BINS), dtype=np.float32)
    return features.window(0, features.num_ready)
