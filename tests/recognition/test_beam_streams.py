"""What beam search brings to streams: alternatives, biasing by stream, and results that are revised."""

from typing import Any

import numpy as np
import pytest
import torch
from streaming_helpers import PIECES, bursts, make_recognizer
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.hypothesis import Hypothesis
from kdasr.decoding.search import BeamOptions
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.features import samples_for_frame
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import join_words
from kdasr.recognition.simulate import simulate, simulate_together
from kdasr.recognition.stream import Stream

CHUNKED = Context(left=8, chunk=4)


def _finished(engine: StreamingRecognizer, seed: int, biasing: BiasingGraph | None = None) -> Stream:
    stream = engine.create_stream(biasing)
    wave = bursts(1.7, seed)
    for start in range(0, len(wave), 1600):
        stream.accept_waveform(16000, wave[start : start + 1600])
        engine.decode_all([stream])
    stream.input_finished()
    engine.decode_all([stream])
    return stream


@pytest.mark.parametrize("context", [CHUNKED, Context(left=6, chunk=2, right=3), Context.full()], ids=str)
def test_alternatives_of_a_stream_are_those_of_the_whole_recording(context: Context) -> None:
    engine = make_recognizer(context, search=BeamOptions(beam=5))
    whole = recognize_offline(engine, [bursts(1.7, seed) for seed in range(3)], nbest=4)
    for seed in range(3):
        stream = _finished(engine, seed)
        result = engine.result(stream, nbest=4)
        assert [entry.text for entry in result.nbest] == [entry.text for entry in whole[seed].nbest]
        scores = [entry.score for entry in whole[seed].nbest]
        assert [entry.score for entry in result.nbest] == pytest.approx(scores, abs=1e-3)
        assert result.nbest[0].text == result.text
        listed = engine.nbest(stream)
        assert [(token.id, token.frame) for token in result.tokens] == list(
            zip(listed[0].tokens, listed[0].frames, strict=True)
        )
        assert len(listed) == len({tuple(entry.tokens) for entry in listed}) > 3
        assert engine.text(listed[1].tokens) == join_words([PIECES[t] for t in listed[1].tokens])


def test_each_stream_has_its_own_phrases() -> None:
    engine = make_recognizer(CHUNKED, search=BeamOptions(beam=4))
    graph = BiasingGraph([((9, 10), 6.0)])
    plain, biased = _finished(engine, 1), _finished(engine, 1, graph)
    waves = [bursts(1.7, 1)] * 2
    whole = recognize_offline(engine, waves, biasing=[None, graph])
    assert [engine.result(plain).text, engine.result(biased).text] == [result.text for result in whole]
    assert engine.result(plain).text.count("GHI") < engine.result(biased).text.count("GHI")
    everywhere = make_recognizer(CHUNKED, search=BeamOptions(beam=4), biasing=graph)
    assert everywhere.result(_finished(everywhere, 1)) == engine.result(biased)
    assert recognize_offline(everywhere, waves[:1])[0].text == whole[1].text


def test_a_phrase_that_the_end_cuts_off_gains_nothing() -> None:
    plain = make_recognizer(CHUNKED, search=BeamOptions(beam=4))
    last = plain.result(_finished(plain, 1)).tokens[-1].id
    engine = make_recognizer(
        CHUNKED, search=BeamOptions(beam=4), biasing=BiasingGraph([((last, 9, 10, 9, 10), 0.05)])
    )
    whole = recognize_offline(engine, [bursts(1.7, 1)], nbest=4)[0]
    result = engine.result(_finished(engine, 1), nbest=4)
    assert [entry.score for entry in result.nbest] == pytest.approx(
        [entry.score for entry in whole.nbest], abs=1e-3
    )
    plain_scores = [entry.score for entry in plain.result(_finished(plain, 1), nbest=4).nbest]
    assert result.nbest[0].score == pytest.approx(plain_scores[0], abs=1e-3)


def test_greedy_search_says_what_it_lacks() -> None:
    engine = make_recognizer(CHUNKED)
    graph = BiasingGraph([((3,), 1.0)])
    with pytest.raises(UserError, match="n-best"):
        engine.result(engine.create_stream(), nbest=2)
    with pytest.raises(UserError, match="biasing"):
        engine.create_stream(graph)
    with pytest.raises(UserError, match="biasing"):
        make_recognizer(CHUNKED, biasing=graph)
    with pytest.raises(UserError, match="language model"):
        make_recognizer(CHUNKED, language_model=object())


class _Script:
    """A search that displays what it was told to, chunk by chunk."""

    options = BeamOptions()

    def __init__(self, displays: list[list[int]], settled: list[int]) -> None:
        self.displays, self.settled = [[], *displays], [0, *settled]

    def initial_state(self, biasing: Any = None) -> int:
        return 0

    def advance(self, encoded_BCD: Tensor, lens_B: Tensor, states: list[int]) -> list[int]:
        return [min(state + 1, len(self.displays) - 1) for state in states]

    def num_settled(self, state: int) -> int:
        return self.settled[state]

    def best(self, state: int, start: int = 0, final: bool = False) -> Hypothesis:
        tokens = self.displays[state]
        frames = [4 * state + place for place in range(len(tokens))]
        log_probs = [-0.5 * token for token in tokens[start:]]
        return Hypothesis(tokens[start:], frames[start:], log_probs, log_probs)


def _window(number: int) -> float:
    """When window `number` (from 1) is complete: 4 * 4 feature frames each, and three more."""
    return samples_for_frame(16 * number + 2) / 16000


@pytest.mark.parametrize("settled", [[0] * 6, [1, 1, 2, 2, 3, 3]], ids=["none", "some"])
def test_a_revised_piece_is_shown_from_when_it_stands_and_stays(settled: list[int]) -> None:
    displays = [
        [3, 5],
        [3, 4, 8],  # 5 is revised to 4; 8 is new
        [3, 7, 8],  # 4 to 7; 8 stays where it is
        [3, 7],  # 8 is taken back
        [3, 7, 8, 5],  # and comes again, with another
        [3, 7, 8, 4, 5],  # 5 moves to the next place
    ]
    engine = make_recognizer(CHUNKED)
    engine.search = _Script(displays, settled)
    stream = engine.create_stream()
    stream.accept_waveform(16000, bursts(3.0))
    expected = [[1, 1], [1, 2, 2], [1, 3, 2], [1, 3], [1, 3, 5, 5], [1, 3, 5, 6, 6]]
    for display, since in zip(displays, expected, strict=True):
        engine.decode_streams([stream])
        tokens = engine.result(stream).tokens
        assert [token.id for token in tokens] == display
        assert [token.shown for token in tokens] == pytest.approx([_window(number) for number in since])
        assert [token.piece for token in tokens] == [PIECES[piece] for piece in display]
    # With a machine that takes no time, the simulated clock says the same.
    simulation = simulate(engine, bursts(3.0), timer=lambda: 0.0)
    assert simulation.wall == pytest.approx([token.shown for token in simulation.result.tokens])
    assert simulation.wall == pytest.approx([_window(number) for number in expected[-1]])


def test_beam_search_does_revise() -> None:
    """Otherwise the tests above say nothing of real searches."""
    engine = make_recognizer(CHUNKED, search=BeamOptions(beam=4))
    revised = 0
    for seed in range(6):
        stream, wave, before = engine.create_stream(), bursts(3.0, seed), []
        for start in range(0, len(wave), 1600):
            stream.accept_waveform(16000, wave[start : start + 1600])
            engine.decode_all([stream])
            now = [token.id for token in stream.tokens]
            revised += now[: len(before)] != before
            before = now
    assert revised > 3


def test_a_stream_that_is_never_reset_shows_what_one_without_endpoints_does() -> None:
    """Whatever the rules say: it is not over, and phrases that are open may still be completed."""
    graph = BiasingGraph([((9, 10, 9, 10), 3.0), ((3, 4, 3), 3.0)])
    options: dict[str, Any] = {"search": BeamOptions(beam=4, blank_penalty=0.5), "biasing": graph}
    engine = make_recognizer(CHUNKED, endpoints=EndpointRules(60.0, 60.0, 1.0), **options)
    waves = [bursts(6.0, 1), bursts(6.0, 2)]
    without = simulate_together(engine.with_endpoints(None), waves[:1])[0]
    never, cut = simulate_together(engine, waves, resets=[False, True])
    assert never.result == without.result and len(never.segments) == 1 < len(cut.segments)


def test_results_of_nothing() -> None:
    engine = make_recognizer(CHUNKED, search=BeamOptions())
    stream = engine.create_stream()
    assert engine.result(stream, nbest=3).nbest[0].text == "" and engine.result(stream).tokens == []
    stream.accept_waveform(16000, np.zeros(50, np.float32))
    stream.input_finished()
    assert engine.result(stream, nbest=3).is_final
    assert recognize_offline(engine, [np.zeros(50, np.float32)], nbest=2)[0].nbest[0].score == 0.0
    assert torch.is_inference_mode_enabled() is False
