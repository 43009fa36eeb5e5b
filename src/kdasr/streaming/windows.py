"""Which feature frames a stream is decoded from next, and when they are all there.

A window has `chunk + right` encoder frames and three feature frames of overlap; under a full context it is
what is left of the input.

Shapes: B streams, W feature frames of a window, F mel bins.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE
from kdasr.nn.context import Context
from kdasr.streaming.features import OVERLAP, SUBSAMPLING, samples_for_frame
from kdasr.streaming.stream import Stream


class Windows:
    """The windows of streams under a context."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def is_ready(self, stream: Stream) -> bool:
        """Whether the stream's next window can be decoded."""
        total = stream.features.total_encoder_frames
        if total is not None:
            return stream.num_decoded < total
        if self._context.is_full:
            return False
        return stream.features.num_ready >= self._end(stream)

    def samples_needed(self, stream: Stream) -> int | None:
        """Samples (16 kHz) that the next window still waits for; None: it waits for the end of input."""
        if self._context.is_full or stream.is_finished:
            return None
        return max(0, samples_for_frame(self._end(stream) - 1) - stream.features.num_samples)

    def shown_at(self, stream: Stream) -> float:
        """Audio time at which what the next window says can be shown."""
        if self._context.is_full:
            return stream.seconds
        return min(stream.seconds, samples_for_frame(self._end(stream) - 1) / SAMPLE_RATE)

    def collect(self, streams: Sequence[Stream]) -> tuple[Tensor, Tensor]:
        """The next window of each stream, padded to (B, W, F), and the valid frames of each."""
        if self._context.is_full:
            ends = [stream.features.num_ready for stream in streams]
            width = max(
                end - SUBSAMPLING * stream.num_decoded for end, stream in zip(ends, streams, strict=True)
            )
        else:
            ends = [self._end(stream) for stream in streams]
            width = SUBSAMPLING * self._context.window_frames + OVERLAP
        features_BWF = np.zeros((len(streams), width, NUM_MEL_BINS), dtype=np.float32)
        lens = [
            stream.features.copy_window(window, SUBSAMPLING * stream.num_decoded, end)
            for stream, end, window in zip(streams, ends, features_BWF, strict=True)
        ]
        return torch.from_numpy(features_BWF), torch.tensor(lens)

    def _end(self, stream: Stream) -> int:
        """The feature frame after the stream's next window."""
        return SUBSAMPLING * (stream.num_decoded + self._context.window_frames) + OVERLAP
