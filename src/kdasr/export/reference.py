"""What our own recogniser says of the windows that a client of sherpa-onnx has decoded."""

# Shapes: B = 1 stream, N samples at 16 kHz, T feature frames of a window, F features, C encoder frames of a
# chunk.

from collections.abc import Sequence

import torch

from kdasr.data.features import SAMPLE_RATE
from kdasr.decoding.greedy import GreedyState, greedy_chunk, initial_state
from kdasr.export.client import Emission, Samples, with_tail
from kdasr.nn.subsampling import EXTRA_FRAMES, FACTOR
from kdasr.streaming.features import OnlineFeatures
from kdasr.streaming.recognizer import Recognisable, StreamingRecognizer
from kdasr.streaming.stream import Stream

_UNREACHED_FRAMES = 8
"""Silence beyond the client's: the client knows where its input ends and so has its last frames earlier."""


def decode_windows(recognizer: StreamingRecognizer, samples_N: Samples, num_windows: int) -> Stream:
    """Our recogniser's stream after the first windows of a recording and the client's tail."""
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, with_tail(samples_N, recognizer.context, _UNREACHED_FRAMES))
    for _ in range(num_windows):
        recognizer.decode_streams([stream])
    return stream


def emissions_of(recognizer: StreamingRecognizer, stream: Stream) -> list[Emission]:
    """Pieces and frames that a stream shows."""
    return [Emission(token.piece, token.frame) for token in recognizer.result(stream).tokens]


@torch.inference_mode()
def greedy_segments(
    ours: Recognisable, samples_N: Samples, windows_per_segment: Sequence[int]
) -> list[list[Emission]]:
    """Our greedy search on a recording in which a client has reset the stream between segments.

    As sherpa-onnx does, a segment begins with a new encoder state, on features that go on, and with the
    search where the last one left it. When a segment emitted nothing, sherpa-onnx forgets the pieces before
    it, but not what the predictor made of them: that holds until the next piece.
    """
    model, context = ours.model.eval(), ours.context
    features = OnlineFeatures()
    features.accept(SAMPLE_RATE, with_tail(samples_N, context, _UNREACHED_FRAMES))
    size, shift = FACTOR * context.window_frames + EXTRA_FRAMES, FACTOR * context.chunk
    search_state, start, segments = initial_state(model, 1), 0, []
    for num_windows in windows_per_segment:
        encoder_state = model.encoder.init_state(1, context)
        emissions: list[Emission] = []
        for window in range(num_windows):
            window_BTF = torch.from_numpy(features.window(start, start + size)).unsqueeze(0)
            encoded_BCD, lens_B, encoder_state = model.encode_chunk(window_BTF, encoder_state, context)
            (found,), search_state = greedy_chunk(model, encoded_BCD, lens_B, search_state)
            for token, frame in zip(found.tokens, found.frames, strict=True):
                emissions.append(Emission(ours.tokenizer.piece(token), context.chunk * window + frame))
            start += shift
        if not emissions:
            search_state = GreedyState(initial_state(model, 1).context_BK, search_state.predicted_BJ)
        segments.append(emissions)
    return segments
