"""What our own recognizer says of the windows that a client of sherpa-onnx has decoded."""

# Shapes: N samples at 16 kHz.

from collections.abc import Callable

from kdasr.data.features import SAMPLE_RATE
from kdasr.export.bundle import BundleFolder
from kdasr.export.client import ClientPiece, Samples, Segment, with_tail
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.stream import Stream

_UNREACHED_FRAMES = 8
"""Silence beyond the client's: the client knows where its input ends and so has its last frames earlier."""


def decode_windows(recognizer: StreamingRecognizer, samples_N: Samples, num_windows: int) -> Stream:
    """Our recognizer's stream after the first windows of a recording and the client's tail."""
    stream = _fed_stream(recognizer, samples_N)
    for _ in range(num_windows):
        recognizer.decode_streams([stream])
    return stream


def _fed_stream(recognizer: StreamingRecognizer, samples_N: Samples) -> Stream:
    stream = recognizer.create_stream()
    padded_N = with_tail(samples_N, recognizer.context, recognizer.geometry, _UNREACHED_FRAMES)
    stream.accept_waveform(SAMPLE_RATE, padded_N)
    return stream


def emissions_of(recognizer: StreamingRecognizer, stream: Stream) -> list[ClientPiece]:
    """Pieces and frames that a stream shows."""
    return [ClientPiece.of_ours(token.piece, token.frame) for token in recognizer.result(stream).tokens]


def client_rules(bundle: BundleFolder) -> EndpointRules:
    """The endpoints with which a segment of ours begins as one of sherpa-onnx's does."""
    return EndpointRules(keep_predictor=True, keep_encoder=bundle.keeps_encoder)


def segment_of(recognizer: StreamingRecognizer, stream: Stream) -> list[ClientPiece]:
    """Pieces of a segment; frames count from its start, as the client's do."""
    return [
        emission._replace(frame=emission.frame - stream.segment_start)
        for emission in emissions_of(recognizer, stream)
    ]


def decode_segments(
    recognizer: StreamingRecognizer,
    samples_N: Samples,
    num_windows: int,
    shown: Callable[[StreamingRecognizer, Stream], list[ClientPiece]] = segment_of,
) -> list[Segment]:
    """The segments of our recognizer, by its own endpoints, in the windows that a client has decoded.

    With `client_rules` a segment begins as sherpa-onnx's does: on features that go on, with predictor and
    encoder where the last one left them (but see `BundleFolder.keeps_encoder`). `shown` gives the pieces of a
    segment when it has ended.
    """
    stream = _fed_stream(recognizer, samples_N)
    segments, begin = [], 0
    for window in range(1, num_windows + 1):
        recognizer.decode_streams([stream])
        if recognizer.is_endpoint(stream):
            segments.append(Segment(shown(recognizer, stream), window - begin))
            recognizer.reset(stream)
            begin = window
    return [*segments, Segment(shown(recognizer, stream), num_windows - begin)]
