"""A predictor with a memory: streams keep it from chunk to chunk, and over a cut in the middle of speech."""

import pytest
import torch
from streaming_helpers import bursts, make_recognizer

from kdasr.decoding.beam import BeamOptions, beam_search
from kdasr.decoding.greedy import greedy_search
from kdasr.decoding.search import GreedyOptions, SearchOptions, describe
from kdasr.models.predictors.lstm import LstmConfig
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.features import whole_features
from kdasr.recognition.simulate import simulate

CONTEXT = Context(left=8, chunk=4)
MEMORY = LstmConfig(dim=16, num_layers=2)


@pytest.mark.parametrize("options", [GreedyOptions(), BeamOptions()], ids=describe)
def test_streams_say_what_whole_utterances_say(options: SearchOptions) -> None:
    engine = make_recognizer(CONTEXT, predictor=MEMORY, search=options)
    waves = [bursts(3.0, seed=1), bursts(1.7, seed=2)]
    streams = [engine.create_stream() for _ in waves]
    for start in range(0, 48000, 3100):
        for stream, wave in zip(streams, waves, strict=True):
            if len(wave) > start:
                stream.accept_waveform(16000, wave[start : start + 3100])
            elif not stream.is_finished:
                stream.input_finished()
        engine.decode_all([stream for stream in streams if len(waves[0]) > start])
    for stream in streams:
        if not stream.is_finished:
            stream.input_finished()
    engine.decode_all(streams)
    for stream, wave in zip(streams, waves, strict=True):
        features_BTF = torch.from_numpy(whole_features(16000, wave, engine.geometry))[None]
        encoded = engine.model.encode(features_BTF, torch.tensor([features_BTF.shape[1]]), CONTEXT)
        heard = encoded.encoded_BTD, encoded.lens_B
        if isinstance(options, BeamOptions):
            expected = beam_search(engine.model, *heard, options)[0][0].tokens
        else:
            expected = greedy_search(engine.model, *heard)[0].tokens
        assert len(expected) > 3
        assert [token.id for token in engine.result(stream).tokens] == expected


def test_a_stream_that_is_cut_in_speech_says_what_the_uncut_one_says() -> None:
    said = {}
    for name, rules in {"uncut": None, "cut": EndpointRules(60.0, 60.0, 0.5)}.items():
        engine = make_recognizer(CONTEXT, predictor=MEMORY, endpoints=rules)
        said[name] = simulate(engine, bursts(4.0, seed=3))
    assert len(said["cut"].segments) > 3 and len(said["uncut"].result.tokens) > 10
    assert said["cut"].result == said["uncut"].result
