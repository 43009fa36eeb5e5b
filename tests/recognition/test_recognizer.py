"""Laws of the streaming recognizer: neither packets nor batches nor streaming itself change what is heard."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from streaming_helpers import bursts, make_recognizer

from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.search import BeamOptions, SearchOptions
from kdasr.nn.context import Context
from kdasr.recognition.features import samples_for_frame
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import GrowingWords, Result, Token, group_words

CONTEXTS = [
    Context(left=8, chunk=4),
    Context(left=6, chunk=2, right=3),
    Context(left=0, chunk=1),
    Context(left=4, chunk=8, right=2),
    Context.full(),
]
CHUNKED = Context(left=8, chunk=4)
SEARCHES = pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])


def _stream(
    recognizer: StreamingRecognizer, samples: NDArray[np.float32], packet: int, rate: int = 16000
) -> Result:
    stream = recognizer.create_stream()
    for start in range(0, len(samples), packet):
        stream.accept_waveform(rate, samples[start : start + packet])
        recognizer.decode_all([stream])
    stream.input_finished()
    recognizer.decode_all([stream])
    return recognizer.result(stream)


def _emitted(result: Result) -> list[tuple[int, int]]:
    return [(token.id, token.frame) for token in result.tokens]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("tail_seconds", [0.0, 0.25])
@SEARCHES
def test_streaming_from_samples_equals_offline_features(
    context: Context, tail_seconds: float, search: SearchOptions | None
) -> None:
    engine = make_recognizer(context, tail_seconds=tail_seconds, search=search)
    waves = [bursts(seconds, seed) for seed, seconds in enumerate([0.02, 0.9, 1.234, 2.0, 3.1])]
    offline = recognize_offline(engine, waves)
    streamed = [_stream(engine, wave, 1600) for wave in waves]
    assert [_emitted(result) for result in streamed] == [_emitted(result) for result in offline]
    assert len({piece for result in streamed for piece in result.pieces}) > 3
    assert all(result.is_final for result in streamed)


@pytest.mark.parametrize("context", [CHUNKED, Context.full()], ids=str)
@SEARCHES
def test_any_packets_of_samples_give_the_same_result(context: Context, search: SearchOptions | None) -> None:
    engine, wave = make_recognizer(context, search=search), bursts(0.9, seed=1)
    at_once = _stream(engine, wave, len(wave))
    assert at_once.tokens
    for packet in (1, 160, 777, 5000):
        assert _stream(engine, wave, packet) == at_once


def test_packets_at_another_rate_give_the_same_result() -> None:
    engine, wave = make_recognizer(CHUNKED), bursts(1.5, seed=1, rate=44100)
    at_once = _stream(engine, wave, len(wave), rate=44100)
    assert at_once.tokens
    assert _stream(engine, wave, 441, rate=44100) == at_once
    assert _stream(engine, wave, 1000, rate=44100) == at_once


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@SEARCHES
def test_streams_of_different_ages_in_one_batch_equal_each_alone(
    context: Context, search: SearchOptions | None
) -> None:
    engine = make_recognizer(context, search=search)
    waves = [bursts(seconds, seed) for seed, seconds in enumerate([2.6, 0.5, 1.7, 1.1])]
    streams = [engine.create_stream() for _ in waves]
    for step in range(60):
        for index, (stream, wave) in enumerate(zip(streams, waves, strict=True)):
            start = 1600 * (step - 3 * index)  # each joins later than the one before
            if 0 <= start < len(wave):
                stream.accept_waveform(16000, wave[start : start + 1600])
            elif start >= len(wave):
                stream.input_finished()
        if ready := [stream for stream in streams if engine.is_ready(stream)]:
            engine.decode_streams(ready)
    engine.decode_all(streams)
    alone = [_stream(engine, wave, 1600) for wave in waves]
    assert [engine.result(stream) for stream in streams] == alone
    assert sum(len(result.tokens) for result in alone) > 5


@pytest.mark.parametrize("context", CONTEXTS[:4], ids=str)
def test_a_token_is_shown_when_its_window_is_complete_and_not_before(context: Context) -> None:
    engine, wave = make_recognizer(context), bursts(1.9, seed=5)
    tokens = _stream(engine, wave, 1600).tokens
    assert tokens
    first_of_window = {token.shown: token for token in reversed(tokens)}
    for token in [*list(first_of_window.values())[:5], tokens[0], tokens[-1]]:
        shown = round(token.shown * 16000)
        if shown < len(wave):
            # 4 (chunk + right) + 3 frames from the chunk's start; a frame's last sample is at 10 t + 17.5 ms.
            first = token.frame // context.chunk * context.chunk
            last_feature = 4 * (first + context.chunk + context.right) + 2
            assert shown == 160 * last_feature + 280 == samples_for_frame(last_feature)
        else:
            assert shown == len(wave)
        assert token in _heard_after(engine, wave[:shown], finished=shown == len(wave))
        assert token not in _heard_after(engine, wave[: shown - 1], finished=False)
    assert any(round(token.shown * 16000) < len(wave) for token in tokens)


def _heard_after(
    engine: StreamingRecognizer, samples: NDArray[np.float32], finished: bool
) -> Sequence[Token]:
    stream = engine.create_stream()
    stream.accept_waveform(16000, samples)
    if finished:
        stream.input_finished()
    engine.decode_all([stream])
    return engine.result(stream).tokens


def test_full_context_waits_for_the_end() -> None:
    engine, wave = make_recognizer(Context.full()), bursts(2.0)
    stream = engine.create_stream()
    stream.accept_waveform(16000, wave)
    assert not engine.is_ready(stream) and engine.samples_needed(stream) is None
    stream.input_finished()
    engine.decode_all([stream])
    tokens = engine.result(stream).tokens
    assert tokens and all(token.shown == 2.0 for token in tokens)


@pytest.mark.parametrize("context", [CHUNKED, Context(left=6, chunk=2, right=3)], ids=str)
def test_samples_needed_is_exact(context: Context) -> None:
    engine, wave = make_recognizer(context), bursts(3.0)
    stream, position = engine.create_stream(), 0
    for _ in range(3):
        needed = engine.samples_needed(stream)
        assert needed
        stream.accept_waveform(16000, wave[position : position + needed - 1])
        assert not engine.is_ready(stream)
        stream.accept_waveform(16000, wave[position + needed - 1 : position + needed])
        assert engine.is_ready(stream) and engine.samples_needed(stream) == 0
        engine.decode_streams([stream])
        position += needed


@pytest.mark.parametrize("context", [CHUNKED, Context.full()], ids=str)
@pytest.mark.parametrize("num_samples", [0, 1, 79, 80, 200, 399, 1000])
def test_next_to_no_audio(context: Context, num_samples: int) -> None:
    engine = make_recognizer(context)
    wave = 0.1 * np.ones(num_samples, dtype=np.float32)
    result = _stream(engine, wave, 100)
    assert result.is_final and _emitted(result) == _emitted(recognize_offline(engine, [wave])[0])
    if num_samples < 80:
        assert result.tokens == [] and result.text == ""


def test_a_finished_stream_refuses_audio_and_others_go_on() -> None:
    engine, wave = make_recognizer(CHUNKED), bursts(1.5, seed=2)
    ended, other = engine.create_stream(), engine.create_stream()
    ended.accept_waveform(16000, wave[:8000])
    other.accept_waveform(16000, wave[:8000])
    ended.input_finished()
    engine.decode_all([ended, other])
    before = engine.result(ended)
    with pytest.raises(UserError, match="this stream has ended"):
        ended.accept_waveform(16000, wave[8000:])
    ended.input_finished()
    assert engine.result(ended) == before and not engine.is_ready(ended)
    other.accept_waveform(16000, wave[8000:])
    other.input_finished()
    engine.decode_all([ended, other])
    assert engine.result(other) == _stream(engine, wave, 1600)


def test_a_refused_packet_leaves_the_stream_as_it_was() -> None:
    engine, wave = make_recognizer(CHUNKED), bursts(1.2, seed=4)
    stream = engine.create_stream()
    stream.accept_waveform(16000, wave[:9000])
    for rate, packet, message in [
        (16000, [0.1, np.nan], "not finite"),
        (16000, np.ones((2, 10), np.float32), "one channel"),
        (16000, 1000.0 * np.ones(3), "scale float samples"),
        (8000, wave[:100], "rate changed from 16000 to 8000"),
        (0, wave[:100], "sample rate 0"),
    ]:
        with pytest.raises(UserError, match=message):
            stream.accept_waveform(rate, packet)
    stream.accept_waveform(16000, wave[9000:])
    stream.input_finished()
    engine.decode_all([stream])
    assert engine.result(stream) == _stream(engine, wave, 1600)


def test_decoding_what_is_not_ready_is_an_error() -> None:
    engine = make_recognizer(CHUNKED)
    young, ready = engine.create_stream(), engine.create_stream()
    ready.accept_waveform(16000, bursts(1.0))
    with pytest.raises(ValueError, match="not ready"):
        engine.decode_streams([ready, young])
    with pytest.raises(ValueError, match="twice"):
        engine.decode_streams([ready, ready])
    assert ready.num_decoded == 0


@SEARCHES
@pytest.mark.parametrize("context", [CHUNKED, Context.full()], ids=str)
def test_an_error_leaves_every_stream_as_it_was(
    search: SearchOptions | None, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_recognizer(context, search=search)
    waves = [bursts(1.3, 1), bursts(2.0, 2)]
    undisturbed = [_stream(engine, wave, 1600) for wave in waves]
    streams = [engine.create_stream() for _ in waves]
    for stream, wave in zip(streams, waves, strict=True):
        stream.accept_waveform(16000, wave)
        stream.input_finished()
    steps = 0
    while ready := [stream for stream in streams if engine.is_ready(stream)]:
        for method in ("advance", "best"):
            with monkeypatch.context() as patch:
                patch.setattr(engine.search, method, _fail)
                with pytest.raises(MemoryError):
                    engine.decode_streams(ready)
        engine.decode_streams(ready)
        steps += 1
    assert [engine.result(stream) for stream in streams] == undisturbed
    assert steps == (1 if context.is_full else 13)


def _fail(*_: object, **__: object) -> None:
    raise MemoryError


def test_a_stream_belongs_to_its_recognizer() -> None:
    engine, other = make_recognizer(CHUNKED), make_recognizer(CHUNKED, search=BeamOptions())
    stranger = other.create_stream()
    stranger.accept_waveform(16000, bursts(1.0))
    for use in (lambda: engine.decode_streams([stranger]), lambda: engine.result(stranger)):
        with pytest.raises(ValueError, match="another recognizer"):
            use()
    other.decode_all([stranger])
    assert other.result(stranger).tokens


def test_impossible_options_are_named() -> None:
    for seconds in (-0.1, 61.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="tail_seconds"):
            make_recognizer(CHUNKED, tail_seconds=seconds)
    engine = make_recognizer(CHUNKED, search=BeamOptions())
    with pytest.raises(UserError, match="nbest -1"):
        engine.result(engine.create_stream(), nbest=-1)
    beyond = BiasingGraph([((3, 11), 1.0)])
    with pytest.raises(UserError, match="piece 11: the model has 11 pieces"):
        engine.create_stream(beyond)
    with pytest.raises(UserError, match="piece 11: the model has 11 pieces"):
        recognize_offline(engine, [np.zeros(16000, np.float32)], biasing=[beyond])
    with pytest.raises(UserError, match="piece 11: the model has 11 pieces"):
        make_recognizer(CHUNKED, search=BeamOptions(), biasing=beyond)


def _anew(result: Result) -> Result:
    """The same without the words that are known already."""
    return replace(result, tokens=list(result.tokens))


@pytest.mark.parametrize("seed", range(20))
def test_words_of_a_growing_segment_are_those_of_all_its_pieces(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [
        "\u2581A",
        "B",
        "\u2581",
        "\u2581\u2581",
        "C\u2581D",
        "<0xC3>",
        "<0x89>",
        "\u2581<0xC3>",
        "",
        "\u2581E",
    ]

    def drawn(first: int, count: int) -> list[Token]:
        return [
            Token(0, rng.choice(pieces), first + place, 0.0, -1.0, -rng.random()) for place in range(count)
        ]

    calibration = Calibration(0.7, -0.2) if seed % 2 else None
    growing, tokens, num_settled, kept = GrowingWords(calibration, 0.04), list[Token](), 0, []
    for _ in range(30):
        tokens[num_settled:] = drawn(num_settled, rng.randrange(6))
        num_settled = rng.randint(num_settled, len(tokens))
        closed = growing.closed(tokens, num_settled)
        result = Result(
            list(tokens), is_final=False, calibration=calibration, frame_seconds=0.04, closed=closed
        )
        kept.append(result)
    for result in kept:  # none was changed by those after it
        whole = _anew(result)
        assert result == whole and result.text == whole.text and result.words == whole.words
        assert [word.confidence for word in result.words] == [word.confidence for word in whole.words]
        spans = [(word.text, word.first_token, word.last_token) for word in result.words]
        expected = group_words(result.pieces)
        assert spans == [(word.text, word.first_token, word.last_token) for word in expected]


@SEARCHES
def test_the_words_of_settled_pieces_are_made_once(search: SearchOptions | None) -> None:
    engine = make_recognizer(CHUNKED, search=search)
    stream, wave, kept = engine.create_stream(), bursts(4.0, 3), []
    for start in range(0, len(wave), 1600):
        stream.accept_waveform(16000, wave[start : start + 1600])
        while engine.is_ready(stream):
            engine.decode_streams([stream])
            kept.append(engine.result(stream))
    for result in kept:
        assert result.words == _anew(result).words and result.text == _anew(result).text
    before, after = kept[-2].words, kept[-1].words
    assert len(before) > 4 and after[0] is before[0] is kept[-1].words[0]
    engine.reset(stream)
    assert engine.result(stream).words == []
