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

from math import ceil

import kaldi_native_fbank as knf
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import FRAME_LENGTH_SECONDS, FRAME_SHIFT_SECONDS, KALDI
from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE, compute_features
from kdasr.data.signal_check import SignalMeter
from kdasr.models.encoders.base import Geometry
from kdasr.recognition.audio import check_rate, check_samples
from kdasr.recognition.resample import StreamingResampler

_SHIFT = round(SAMPLE_RATE * FRAME_SHIFT_SECONDS)
_WINDOW = round(SAMPLE_RATE * FRAME_LENGTH_SECONDS)
_BLOCK = 10 * SAMPLE_RATE


def samples_for_frame(frame: int) -> int:
    """Samples (16 kHz) that must have arrived before feature frame `frame` is known.

    Frames of 25 ms are centered on their 10 ms (`snip_edges` off), so the last sample of frame t is that at
    10 t + 17.5 ms.
    """
    return frame * _SHIFT + _SHIFT // 2 + _WINDOW // 2


def fbank_options() -> knf.FbankOptions:
    """The settings of sherpa and of Lhotse's `Fbank`, for samples in [-1, 1]."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = SAMPLE_RATE
    options.frame_opts.frame_shift_ms = 1000 * FRAME_SHIFT_SECONDS
    options.frame_opts.frame_length_ms = 1000 * FRAME_LENGTH_SECONDS
    options.frame_opts.window_type = "povey"
    options.frame_opts.preemph_coeff = 0.97
    options.frame_opts.remove_dc_offset = True
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = NUM_MEL_BINS
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = -400.0
    return options


class OnlineFeatures:
    """Takes samples at any rate, in packets of any size; gives feature frames as they become known."""

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
        self._meter = meter
        self._fbank = knf.OnlineFbank(fbank_options())
        # Rounded first: 0.28 / 0.01 is a little more than 28.
        self._tail_frames = ceil(round(tail_seconds / FRAME_SHIFT_SECONDS, 6))
        self._sample_rate: int | None = None
        self._resampler: StreamingResampler | None = None
        self._discarded = 0
        self.num_samples = 0
        """Samples of speech so far, at 16 kHz, silence at the end not counted."""
        self.total_encoder_frames: int | None = None
        """Encoder frames of the whole input; None until it is finished."""

    @property
    def num_ready(self) -> int:
        """Feature frames known so far, counted from the start."""
        return self._fbank.num_frames_ready

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
        num_frames = (self.num_samples + _SHIFT // 2) // _SHIFT
        if num_frames == 0:
            self.total_encoder_frames = 0
            return
        self.total_encoder_frames = ceil((num_frames + self._tail_frames) / self._geometry.stride)
        padding = self._geometry.window_features(self.total_encoder_frames) - num_frames
        self._fbank.accept_waveform(SAMPLE_RATE, [0.0] * (padding * _SHIFT))
        self._fbank.input_finished()
        assert self.num_ready == num_frames + padding

    def window(self, start: int, end: int) -> NDArray[np.float32]:
        """Known feature frames from `start` to `end` (exclusive) or to the last one: (T, F)."""
        window_TF = np.empty((min(end, self.num_ready) - start, NUM_MEL_BINS), dtype=np.float32)
        self.copy_window(window_TF, start, end)
        return window_TF

    def copy_window(self, out_TF: NDArray[np.float32], start: int, end: int) -> int:
        """Copy the same frames to the first rows of `out_TF`; returns how many there are."""
        assert start >= self._discarded
        get_frame = self._fbank.get_frame
        indices = range(start, min(end, self.num_ready))
        for row, index in enumerate(indices):
            out_TF[row] = get_frame(index)
        return len(indices)

    def discard(self, before: int) -> None:
        """Forget the frames before `before`, so that a long stream needs no more memory than a short one."""
        if before > self._discarded:
            self._fbank.pop(before - self._discarded)
            self._discarded = before

    def _append(self, samples: NDArray[np.float32]) -> None:
        # As Python floats, samples take eight times their memory: not all of a long recording at once.
        for start in range(0, len(samples), _BLOCK):
            self._fbank.accept_waveform(SAMPLE_RATE, samples[start : start + _BLOCK].tolist())
        self.num_samples += len(samples)
        if self._meter is not None:
            self._meter.add(samples)


class BufferedFeatures(OnlineFeatures):
    """The same for encoders whose features are of another kind: they are computed at the end of the input."""

    def __init__(self, geometry: Geometry, meter: SignalMeter | None = None) -> None:
        super().__init__(geometry, meter=meter)
        self._packets: list[NDArray[np.float32]] = []
        self._features_TF = np.zeros((0, NUM_MEL_BINS), dtype=np.float32)

    @property
    def num_ready(self) -> int:
        """Feature frames: none before the end."""
        return len(self._features_TF)

    def finish(self) -> None:
        """End the input. Nothing is appended to it."""
        if self._resampler:
            self._append(self._resampler.flush())
        if self._packets:
            samples_N = torch.from_numpy(np.concatenate(self._packets))
            self._features_TF = compute_features(samples_N, self._geometry.features).numpy()
        self._packets = []
        self.total_encoder_frames = self._geometry.num_frames(self.num_ready)

    def copy_window(self, out_TF: NDArray[np.float32], start: int, end: int) -> int:
        """See `OnlineFeatures.copy_window`."""
        window_TF = self._features_TF[start:end]
        out_TF[: len(window_TF)] = window_TF
        return len(window_TF)

    def discard(self, before: int) -> None:
        """Nothing: there is no stream that goes on."""

    def _append(self, samples: NDArray[np.float32]) -> None:
        self._packets.append(np.array(samples, dtype=np.float32))
        self.num_samples += len(samples)
        if self._meter is not None:
            self._meter.add(samples)


def features_for(
    geometry: Geometry, tail_seconds: float = 0.0, meter: SignalMeter | None = None
) -> OnlineFeatures:
    """The features of a stream, of the kind that the encoder hears."""
    if geometry.features == KALDI:
        return OnlineFeatures(geometry, tail_seconds, meter)
    return BufferedFeatures(geometry, meter)


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
