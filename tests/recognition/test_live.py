"""The live loop says what the recognizer says, chunk by chunk, however streams are batched and cut."""

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streaming_helpers import bursts, make_recognizer
from tone_spotter import WORDS, make_spotter, spoken

from kdasr.cli.stream import _Session
from kdasr.data.signal_check import measure_signal
from kdasr.decoding.search import BeamOptions
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.live import Heard, LiveStream, decode_live
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result

CONTEXT = Context(left=8, chunk=4)
RULES = EndpointRules(rule2_min_trailing_silence=0.6, rule3_min_utterance_length=1.2, rehear=0.2)


def segments(recognizer: StreamingRecognizer, samples: np.ndarray) -> list[Result]:
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, samples)
    stream.input_finished()
    return [result for _, result in recognizer.decode_segments([stream])]


@pytest.mark.parametrize(
    "packet", [1600, 16000, 160000]
)  # the last: all audio, and its end, before any decoding
def test_live_streams_equal_segments_of_the_recognizer(packet: int) -> None:
    recognizer = make_recognizer(CONTEXT, search=BeamOptions(beam=3), endpoints=RULES)
    pause = np.zeros(16000, dtype=np.float32)
    talks = [np.concatenate([bursts(2.0 + seed, seed), pause, bursts(1.0, seed + 9)]) for seed in range(3)]
    lives = [LiveStream(recognizer) for _ in talks]
    found: dict[LiveStream, list[Heard]] = {live: [] for live in lives}
    for start in range(0, max(map(len, talks)), packet):
        for live, talk in zip(lives, talks, strict=True):
            if start < len(talk):
                live.accept(16000, talk[start : start + packet])
                if start + packet >= len(talk):
                    live.finish()
        for live, heard in decode_live(lives):
            found[live].append(heard)
    for live, talk in zip(lives, talks, strict=True):
        finals = [heard for heard in found[live] if heard.is_final and heard.result.tokens]
        expected = segments(recognizer, talk)
        assert len(expected) > 1
        assert [heard.result for heard in finals] == expected
        assert [heard.segment for heard in finals] == [result.segment for result in expected]
        assert [heard.is_eof for heard in found[live]] == [False] * (len(found[live]) - 1) + [True]
        decoded = [heard.decoded for heard in found[live]]
        assert decoded == sorted(decoded) and decoded[-1] == pytest.approx(len(talk) / 16000, abs=1e-3)
        assert live.is_done and not list(decode_live([live]))
        assert any(heard.done < heard.decoded for heard in finals)  # some of it is heard again
        assert all(heard.done >= heard.offset + heard.result.start for heard in found[live] if heard.is_final)


@pytest.mark.parametrize("tail_seconds", [0.0, 2.0])
def test_a_new_stream_from_where_audio_is_done_says_the_rest(tail_seconds: float) -> None:
    recognizer = make_spotter(CONTEXT, endpoints=EndpointRules(), tail_seconds=tail_seconds)
    for begin in range(35200, 43200, 1280):
        audio = np.zeros(64000, dtype=np.float32)
        audio[begin : begin + 2560] = spoken([0], [2560])[-2560:]
        live, done, done_before = LiveStream(recognizer), [0.0], None
        for start in range(0, len(audio), 1280):
            live.accept(16000, audio[start : start + 1280])
            if start + 1280 == len(audio):
                live.finish()
            for _, heard in decode_live([live]):
                if heard.result.tokens and done_before is None:
                    done_before = done[-1]
                done.append(heard.done)
        assert done_before is not None and segments(recognizer, audio[round(16000 * done_before) :])
        assert done == sorted(done) and done[-1] == 4.0


def test_final_results_have_the_hypotheses_that_were_asked_for() -> None:
    live = LiveStream(make_recognizer(CONTEXT, search=BeamOptions(beam=3), endpoints=RULES))
    live.accept(16000, bursts(2.0, 5))
    live.finish()
    heard = [heard for _, heard in decode_live([live], nbest=2)]
    assert [bool(one.result.nbest) for one in heard] == [one.is_final for one in heard]
    assert len(heard[-1].result.nbest) <= 2


def test_full_context_answers_at_cuts_with_times_of_the_whole_stream() -> None:
    live = LiveStream(make_spotter(Context.full()))
    audio = spoken([2, 0], [8000, 4000])
    assert not live.cut()
    live.accept(16000, audio)
    assert list(decode_live([live])) == []
    assert live.cut() and not live.cut()
    (first,) = [heard for _, heard in decode_live([live])]
    live.accept(16000, spoken([1], [8000]))
    live.finish()
    (last,) = [heard for _, heard in decode_live([live])]
    assert (first.result.text, last.result.text) == (f"{WORDS[2]} {WORDS[0]}", WORDS[1])
    assert (first.offset, last.offset) == (0.0, round(len(audio) / 16000, 4))
    assert (first.segment, last.segment) == (0, 1)
    assert (first.is_eof, last.is_eof) == (False, True)


def test_faults_are_of_all_audio_wherever_it_was_cut() -> None:
    """Silence behind the last sentence is no fault."""
    live = LiveStream(make_spotter(Context.full()))
    parts = [
        0.3 * bursts(2.0, 3),
        np.zeros(16000, np.float32),
        0.3 * bursts(1.0, 4),
        np.zeros(16000, np.float32),
    ]
    for part in parts:
        live.accept(16000, part)
        live.cut()
        assert len(list(decode_live([live]))) == 1
    live.finish()
    (last,) = [heard for _, heard in decode_live([live])]
    assert last.is_eof
    assert live.stream.signal.report() == measure_signal(np.concatenate(parts))


def test_stream_without_audio_ends_once() -> None:
    live = LiveStream(make_spotter(CONTEXT))
    live.finish()
    assert [(heard.result.text, heard.is_eof) for _, heard in decode_live([live])] == [("", True)]
    assert list(decode_live([live])) == []


def test_results_are_let_go_of_while_a_file_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much audio comes at once: each result holds all pieces so far."""
    given: list[weakref.ref[Heard]] = []
    most = 0

    def watched(*arguments: Any) -> Iterator[tuple[LiveStream, Heard]]:
        nonlocal most
        for live, heard in decode_live(*arguments):
            given.append(weakref.ref(heard))
            most = max(most, sum(ref() is not None for ref in given))
            yield live, heard

    monkeypatch.setattr("kdasr.recognition.live.decode_live", watched)
    printed: list[Result] = []
    output = SimpleNamespace(final=printed.append, partial=lambda *_: None)
    session = _Session(make_recognizer(CONTEXT), output, 0)  # type: ignore[arg-type]
    session.accept(16000, bursts(4.0, 3))
    session._live.finish()
    session._decode()
    assert most < 4 < len(given) and len(printed) == 1 and len(printed[0].tokens) > 9
