"""Laws of the bundle in our own recognizer."""

import numpy as np
import pytest
import torch
from export_helpers import bursts
from torch.utils._pytree import tree_leaves

from kdasr.common.errors import UserError
from kdasr.data.features import LOWEST_LOG_ENERGY
from kdasr.decoding.expansion import BeamOptions
from kdasr.export.runtime import OnnxTransducer, load_exported
from kdasr.nn.context import Context
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.stream import Stream
from kdasr.testing import tiny_config


def emitted(recognizer: StreamingRecognizer, stream: Stream) -> list[tuple[str, int]]:
    return [(token.piece, token.frame) for token in recognizer.result(stream).tokens]


def test_zero_samples_have_the_features_that_fill_up_windows() -> None:
    silent = whole_features(16000, np.zeros(8000, dtype=np.float32), tiny_config().geometry)
    assert np.allclose(silent, LOWEST_LOG_ENERGY, atol=1e-6)


@pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])
def test_pieces_and_frames_are_those_of_the_model(student, search) -> None:
    model = StreamingRecognizer(student.system, search=search)
    graphs = StreamingRecognizer(load_exported(student.bundle.folder), search=search)
    for seed, seconds in enumerate((0.7, 2.0, 3.1)):
        both = []
        for recognizer in (model, graphs):
            stream = recognizer.create_stream()
            stream.accept_waveform(16000, bursts(seconds, seed))
            recognizer.decode_all([stream])  # whole windows: at the end of input the two differ
            both.append(emitted(recognizer, stream))
        assert both[0] == both[1]
        assert len({piece for piece, _ in both[0]}) > 3


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
def test_the_end_of_a_stream_sounds_like_silence(student, int8: bool) -> None:
    recognizer = StreamingRecognizer(load_exported(student.bundle.folder, int8=int8))
    for seed, seconds in enumerate((0.3, 0.95, 1.27)):
        wave_N = bursts(seconds, seed)
        finished, padded = recognizer.create_stream(), recognizer.create_stream()
        finished.accept_waveform(16000, wave_N)
        finished.input_finished()
        recognizer.decode_all([finished])
        padded.accept_waveform(16000, np.concatenate([wave_N, np.zeros(16000, dtype=np.float32)]))
        recognizer.decode_all([padded])
        heard = [item for item in emitted(recognizer, padded) if item[1] < finished.num_decoded]
        assert heard == emitted(recognizer, finished) != []


def test_streams_of_different_ages_in_one_batch_equal_each_alone(other) -> None:
    recognizer = StreamingRecognizer(load_exported(other.bundle.folder))
    waves = [bursts(seconds, seed) for seed, seconds in enumerate((2.6, 0.6, 1.7))]
    alone = []
    for wave_N in waves:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, wave_N)
        stream.input_finished()
        recognizer.decode_all([stream])
        alone.append(emitted(recognizer, stream))
    streams = [recognizer.create_stream() for _ in waves]
    for first, (stream, wave_N) in enumerate(zip(streams, waves, strict=True), 1):
        stream.accept_waveform(16000, wave_N)
        stream.input_finished()
        recognizer.decode_streams(streams[:first])  # each joins a window later than the one before it
    recognizer.decode_all(streams)
    assert [emitted(recognizer, stream) for stream in streams] == alone
    assert sum(map(len, alone)) > 20


def test_states_are_not_changed_by_a_step(student) -> None:
    graphs = OnnxTransducer.load(student.bundle.folder)
    context = student.bundle.context
    state = graphs.encoder.init_state(2, context)
    x_BWF = torch.randn(2, 19, 80)
    first, lens_B, _ = graphs.encode_chunk(x_BWF, state, context)
    again, _, _ = graphs.encode_chunk(x_BWF, state, context)
    assert torch.equal(first, again) and lens_B.tolist() == [4, 4]
    assert not any(tensor.any() for tensor in tree_leaves(state) if isinstance(tensor, torch.Tensor))


def test_what_the_graphs_cannot_do_is_refused(student) -> None:
    parts = load_exported(student.bundle.folder)
    with pytest.raises(UserError, match="exported under 'left=8 chunk=4 right=0'"):
        StreamingRecognizer(parts, context=Context(left=4, chunk=4)).create_stream()
    with pytest.raises(UserError, match="CPU"):
        parts.model.encoder.init_state(1, parts.context, "cuda")
    state = parts.model.encoder.init_state(1, parts.context)
    with pytest.raises(UserError, match="19 feature frames, not 18"):
        parts.model.encode_chunk(torch.zeros(1, 18, 80), state, parts.context)
