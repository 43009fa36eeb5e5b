"""Which feature frames a stream is decoded from next, and when they are all there.

A window has `chunk + right` encoder frames, and the feature frames of overlap that its encoder needs. Where
the encoder needs the end of the input (`Geometry.needs_end`), it is all of it.

Shapes: B streams, W feature frames of a window, F mel bins.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE
from kdasr.models.encoders.base import Geometry
from kdasr.nn.context import Context
from kdasr.recognition.features import compute_frames, samples_for_frame
from kdasr.recognition.stream import Stream


class Windows:
    """The windows of streams of an encoder under a context."""

    def __init__(self, context: Context, geometry: Geometry) -> None:
        self.context = context
        self.geometry = geometry
        self.needs_end = geometry.needs_end(context)
        """Whether the one window of a stream is ready when its input has ended."""

    def is_ready(self, stream: Stream) -> bool:
        """Whether the stream's next window can be decoded."""
        total = stream.features.total_encoder_frames
        if total is not None:
            return stream.num_decoded < total
        if self.needs_end:
            return False
        return stream.features.num_ready >= self._end(stream)

    def samples_needed(self, stream: Stream) -> int | None:
        """Samples (16 kHz) that the next window still waits for; None: it waits for the end of input."""
        if self.needs_end or stream.is_finished:
            return None
        return max(0, samples_for_frame(self._end(stream) - 1) - stream.features.num_samples)

    def shown_at(self, stream: Stream, frame: int | None = None) -> float:
        """Audio time at which a piece can be shown that the next window emits in an encoded frame.

        With a look-ahead that grows with the layers, this is when all is there that the frame's chunk depends
        on (None: not known which frame decides).
        """
        if self.context.is_full or (self.needs_end and frame is None):
            return stream.seconds
        end = max(self._end(stream), self.geometry.window_features(stream.num_heard + self.context.right))
        if self.needs_end and frame is not None:
            begin = frame // self.context.chunk * self.context.chunk
            end = self.geometry.window_features(begin + self.geometry.wait_frames(self.context))
        return min(stream.seconds, samples_for_frame(end - 1) / SAMPLE_RATE)

    def collect(self, streams: Sequence[Stream]) -> tuple[Tensor, Tensor]:
        """The next window of each stream, padded to (B, W, F), and the valid frames of each."""
        if self.needs_end:
            ends = [stream.features.num_ready for stream in streams]
            width = max(end - self.begin(stream) for end, stream in zip(ends, streams, strict=True))
        else:
            ends = [self._end(stream) for stream in streams]
            width = self.geometry.window_features(self.context.window_frames)
        compute_frames([stream.features for stream in streams], ends)
        features_BWF = np.zeros((len(streams), width, NUM_MEL_BINS), dtype=np.float32)
        lens = [
            stream.features.copy_window(window, self.begin(stream), end)
            for stream, end, window in zip(streams, ends, features_BWF, strict=True)
        ]
        return torch.from_numpy(features_BWF), torch.tensor(lens)

    def heard_seconds(self, frame: int) -> float:
        """Audio that an encoded frame is computed from, counted from the start of the stream."""
        return samples_for_frame(self.geometry.window_features(frame + 1) - 1) / SAMPLE_RATE

    def begin(self, stream: Stream) -> int:
        """The first feature frame of the stream's next window."""
        return self.geometry.stride * stream.num_decoded

    def _end(self, stream: Stream) -> int:
        """The feature frame after the stream's next window."""
        return self.geometry.window_features(stream.num_decoded + self.context.window_frames)
