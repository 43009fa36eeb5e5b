"""sherpa-onnx as a client uses it: a bundle decoded by `OnlineRecognizer` from raw samples.

What the runtime does, so that others can do the same (sherpa-onnx, `online-recognizer-transducer-impl.h`):
it decodes a window when more than T feature frames beyond those it has processed are there, advances by a
chunk, and never decodes part of a window; so a client appends silence. After an endpoint, `reset` starts to
count windows and timestamps from 0 again. It keeps the encoder's states, in which our graphs count by
themselves, so that they go on (`EndpointRules.keep_encoder`). With `reset_encoder=True` it makes new ones,
but only after a segment without pieces (2.0.1).

What it keeps of the pieces depends on the search. In greedy search the last ones stay in the predictor's
context; after a segment without pieces they are forgotten, but not what the predictor made of them. In
modified beam search a hypothesis that has heard nothing, with probability 1, joins those of the beam, of
which the last pieces and the scores are kept; after a segment without pieces it is alone.
"""

# Shapes: N samples at 16 kHz.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.data.features import FRAME_SHIFT_SAMPLES, SAMPLE_RATE
from kdasr.data.tokenizer import WORD_START
from kdasr.export.bundle import GRAPHS, BundleFolder
from kdasr.models.encoders.base import Geometry
from kdasr.nn.context import Context
from kdasr.recognition.result import letters_of_bytes

Samples = NDArray[np.float32]


class ClientPiece(NamedTuple):
    """A piece and the encoder frame at which it was emitted."""

    piece: str
    frame: int

    @classmethod
    def of_ours(cls, piece: str, frame: int) -> "ClientPiece":
        """A piece of ours as sherpa-onnx shows it: a byte (`<0x33>`) that is a visible character as that."""
        shown = letters_of_bytes(piece)
        return cls(shown if len(shown) == 1 and "!" <= shown <= "~" else piece, frame)


@dataclass(frozen=True)
class Segment:
    """What was decoded up to the end of the input, or up to an endpoint."""

    emissions: list[ClientPiece]
    """Frames count from the start of the segment."""
    num_windows: int


def with_tail(samples_N: Samples, context: Context, geometry: Geometry, extra_frames: int = 0) -> Samples:
    """Append the zero samples that let every frame of `samples_N` be decoded: as many frames as a window has.

    The last window that is needed starts before the last frame of `samples_N`, and is decoded when more
    frames are there than it has. More silence (`extra_frames`) does no harm, less loses words.
    """
    frames = geometry.window_features(context.window_frames) + extra_frames
    return np.concatenate([samples_N, np.zeros(frames * FRAME_SHIFT_SAMPLES, dtype=np.float32)])


class SherpaOffline:
    """`sherpa_onnx.OfflineRecognizer` on a bundle for whole utterances, one thread, greedy search."""

    def __init__(self, bundle: BundleFolder, *, int8: bool = False) -> None:
        """
        Raises:
            UserError: sherpa-onnx is not installed, or there are no int8 graphs.
        """
        try:
            import sherpa_onnx
        except ImportError:
            raise UserError("sherpa-onnx is not installed: pip install 'kdasr[export]'") from None
        graphs = {name: str(bundle.graph(name, int8)) for name in GRAPHS}
        self._frame_seconds = bundle.geometry.frame_seconds
        self._recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            tokens=str(bundle.tokens), **graphs, num_threads=1
        )

    def decode_together(self, recordings: Sequence[Samples]) -> list[list[ClientPiece]]:
        """Decode recordings in one batch."""
        streams = []
        for samples_N in recordings:
            streams.append(self._recognizer.create_stream())
            streams[-1].accept_waveform(SAMPLE_RATE, samples_N)
        self._recognizer.decode_streams(streams)
        return [_emissions(stream.result, self._frame_seconds) for stream in streams]


class SherpaClient:
    """`sherpa_onnx.OnlineRecognizer` on a bundle, one thread."""

    def __init__(self, bundle: BundleFolder, *, int8: bool = False, **options: Any) -> None:
        """
        Args:
            bundle: from `open_bundle`: sherpa-onnx ends the process when a file is not what it expects.
            int8: use the int8 graphs.
            options: of `OnlineRecognizer.from_transducer`, such as `decoding_method`.

        Raises:
            UserError: sherpa-onnx is not installed, or there are no int8 graphs.
        """
        try:
            import sherpa_onnx
        except ImportError:
            raise UserError("sherpa-onnx is not installed: pip install 'kdasr[export]'") from None
        self.context, self.geometry = bundle.context, bundle.geometry
        graphs = {name: str(bundle.graph(name, int8)) for name in GRAPHS}
        self._recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
            tokens=str(bundle.tokens), **graphs, num_threads=1, **options
        )

    def decode(self, samples_N: Samples) -> Segment:
        """Decode one recording as one stream."""
        stream = self._fed_stream(samples_N)
        num_windows = 0
        while self._recognizer.is_ready(stream):
            self._recognizer.decode_stream(stream)
            num_windows += 1
        return Segment(self._emissions(stream), num_windows)

    def decode_together(self, recordings: Sequence[Samples]) -> list[Segment]:
        """Decode recordings as streams in one batch, each a window younger than the one before it."""
        streams = [self._fed_stream(samples_N) for samples_N in recordings]
        counts = [0] * len(streams)
        for turn in range(1, 1 + sum(len(samples_N) for samples_N in recordings)):
            ready = [i for i, stream in enumerate(streams[:turn]) if self._recognizer.is_ready(stream)]
            if not ready and turn >= len(streams):
                break
            if ready:  # sherpa-onnx crashes on an empty batch, such as of recordings without a frame
                self._recognizer.decode_streams([streams[i] for i in ready])
            for i in ready:
                counts[i] += 1
        return [Segment(self._emissions(s), count) for s, count in zip(streams, counts, strict=True)]

    def decode_segments(self, samples_N: Samples) -> list[Segment]:
        """Decode one recording, starting a new segment at each endpoint (needs endpoint detection)."""
        stream = self._fed_stream(samples_N)
        segments, num_windows = [], 0
        while self._recognizer.is_ready(stream):
            self._recognizer.decode_stream(stream)
            num_windows += 1
            if self._recognizer.is_endpoint(stream):
                segments.append(Segment(self._emissions(stream), num_windows))
                self._recognizer.reset(stream)
                num_windows = 0
        return [*segments, Segment(self._emissions(stream), num_windows)]

    def _fed_stream(self, samples_N: Samples) -> Any:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(SAMPLE_RATE, with_tail(samples_N, self.context, self.geometry))
        stream.input_finished()
        return stream

    def _emissions(self, stream: Any) -> list[ClientPiece]:
        return _emissions(self._recognizer.get_result_all(stream), self.geometry.frame_seconds)


def _emissions(result: Any, frame_seconds: float) -> list[ClientPiece]:
    frames = [round(seconds / frame_seconds) for seconds in result.timestamps]
    # It shows the mark at the start of a word as a space.
    pieces = [piece.replace(" ", WORD_START) for piece in result.tokens]
    return [ClientPiece(piece, frame) for piece, frame in zip(pieces, frames, strict=True)]
