"""Endpoints and resets: the rules by an independent count, and a reset stream against a new one."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from streaming_helpers import bursts, make_recognizer
from tone_spotter import make_spotter, spoken

from kdasr.common.errors import UserError
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.search import BeamOptions, GreedyOptions, SearchOptions
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import RULES, EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result, Token, group_words, join_segments
from kdasr.recognition.simulate import simulate, simulate_together
from kdasr.recognition.stream import Stream

CONTEXTS = [Context(left=8, chunk=4), Context(left=6, chunk=2, right=3)]
SEARCHES = pytest.mark.parametrize(
    "search",
    # The penalty keeps the random model quiet in silence.
    [GreedyOptions(blank_penalty=-1.5), BeamOptions(beam=3, blank_penalty=-0.7)],
    ids=["greedy", "beam"],
)
WINDOW = 2560
"""Samples of a chunk of 4 frames, and of two chunks of 2."""
QUICK = EndpointRules(
    rule1_min_trailing_silence=0.07, rule2_min_trailing_silence=0.3, rule3_min_utterance_length=2.0, rehear=0
)
"""Every chunk of silence is an endpoint, so that whatever begins with a chunk begins after a reset."""


@pytest.mark.parametrize(
    ("seconds", "not_yet", "enough"),
    # sherpa-onnx's own numbers: 0.01 in 32 bits is less than 0.01, and so are most of its multiples.
    [(1.2, 30, 31), (2.4, 60, 61), (0.32, 7, 8), (1.0, 24, 25), (0.5, 12, 13)],
)
def test_a_rule_holds_from_this_many_silent_frames_on(seconds: float, not_yet: int, enough: int) -> None:
    # Encoder frames of 40 ms; the rules count feature frames.
    not_yet, enough = 4 * not_yet, 4 * enough
    first = EndpointRules(rule1_min_trailing_silence=seconds)
    assert not first.is_endpoint(not_yet, not_yet) and first.is_endpoint(enough, enough)
    second = EndpointRules(rule1_min_trailing_silence=9.0, rule2_min_trailing_silence=seconds)
    assert not second.is_endpoint(not_yet, 396) and second.is_endpoint(enough, 396)
    assert not second.is_endpoint(396, 396)  # nothing was said
    third = EndpointRules(rule3_min_utterance_length=seconds)
    assert not third.is_endpoint(0, not_yet) and third.is_endpoint(0, enough)


@pytest.mark.parametrize("name", ["rule2_min_trailing_silence", "rehear"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), True, "2"])
def test_rules_are_seconds(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{name} .*expected seconds"):
        EndpointRules(**{name: value})


@pytest.mark.parametrize("name", RULES)
def test_a_rule_of_no_time_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} 0.0: expected seconds, above 0"):
        EndpointRules(**{name: 0.0})


def test_endpoints_need_chunks() -> None:
    with pytest.raises(UserError, match="chunk by chunk"):
        make_recognizer(Context.full(), endpoints=EndpointRules())


def _by_hand(rules: EndpointRules, tokens: list[Token], start: int, end: int) -> bool:
    """The rules as the documentation has them, in exact numbers: no threshold here is met exactly."""
    trailing = Fraction(end - 1 - tokens[-1].frame if tokens else end - start, 25)
    return (
        trailing >= rules.rule1_min_trailing_silence
        or (bool(tokens) and trailing >= rules.rule2_min_trailing_silence)
        or Fraction(end - start, 25) >= rules.rule3_min_utterance_length
    )


@SEARCHES
def test_endpoints_are_those_of_an_independent_count(search: SearchOptions) -> None:
    rules = EndpointRules(
        rule1_min_trailing_silence=0.9, rule2_min_trailing_silence=0.37, rule3_min_utterance_length=1.7
    )
    engine = make_recognizer(CONTEXTS[1], search=replace(search, blank_penalty=-1.5), endpoints=rules)
    silence = np.zeros(48000, dtype=np.float32)
    stream = engine.create_stream()
    stream.accept_waveform(16000, np.concatenate([bursts(4.0, 1), silence, bursts(1.0, 2), silence]))
    stream.input_finished()
    starts, rule_of = [0], set()
    while engine.is_ready(stream):
        engine.decode_streams([stream])
        tokens = engine.result(stream).tokens
        expected = _by_hand(rules, tokens, starts[-1], stream.num_decoded)
        assert engine.is_endpoint(stream) == expected
        if expected:
            assert engine.result(stream).is_final
            assert engine.result(stream).start == pytest.approx(starts[-1] / 25)
            rule_of.add((bool(tokens), stream.num_decoded - starts[-1] >= 43))
            said, noticed = stream.segment + bool(tokens), stream.num_decoded
            quiet = noticed - (tokens[-1].frame + 1 if tokens else starts[-1])
            engine.reset(stream)
            # 0.4 s after a piece belong to it, and no more than 0.8 s are heard again.
            again = max(0, min(20, quiet - 10)) if tokens and engine.is_ready(stream) else 0
            assert noticed - stream.num_decoded == again
            starts.append(stream.num_decoded)
            assert stream.segment == said and not engine.result(stream).tokens
            assert not engine.is_endpoint(stream)
    assert {(False, False), (True, True)} <= rule_of  # silence alone, and length


def _heard(engine: StreamingRecognizer, stream: Stream, offset: int = 0) -> list[tuple[float, ...]]:
    tokens = engine.result(stream).tokens
    return [(token.id, token.frame - offset, token.log_prob, token.log_confidence) for token in tokens]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("search", [None, BeamOptions(beam=3, blank_penalty=0.5)], ids=["greedy", "beam"])
def test_a_reset_stream_says_exactly_what_a_new_one_says(
    context: Context, search: SearchOptions | None
) -> None:
    biasing = BiasingGraph([((9, 10), 2.0)]) if search else None
    engine = make_recognizer(context, search=search)
    before = np.concatenate([bursts(2.08, 5), np.zeros(2 * WINDOW, dtype=np.float32)])
    after = np.concatenate([np.zeros(WINDOW, dtype=np.float32), bursts(2.0, 1)])
    joined, fresh = engine.create_stream(biasing), engine.create_stream(biasing)
    other = engine.create_stream()
    joined.accept_waveform(16000, np.concatenate([before, after]))
    other.accept_waveform(16000, bursts(6.0, 3))
    border = len(before) // 640
    while joined.num_decoded < border:
        engine.decode_streams([joined, other])
    assert engine.result(joined).tokens and joined.num_decoded == border
    engine.reset(joined)
    fresh.accept_waveform(16000, after)
    for stream in (joined, fresh):
        stream.input_finished()
    while engine.is_ready(joined):
        engine.decode_streams([joined])
        engine.decode_streams([fresh])
        assert _heard(engine, joined, border) == _heard(engine, fresh)
    assert len(_heard(engine, fresh)) > 3
    shown = [token.shown - border / 25 for token in engine.result(joined).tokens]
    assert shown == pytest.approx([token.shown for token in engine.result(fresh).tokens])
    if search:
        assert [entry.score for entry in engine.nbest(joined)] == [e.score for e in engine.nbest(fresh)]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@SEARCHES
def test_after_an_endpoint_a_stream_says_what_a_new_one_says_from_there(
    context: Context, search: SearchOptions
) -> None:
    """From where its segment begins: before the endpoint, in the silence."""
    engine = make_recognizer(context, search=search, endpoints=EndpointRules(3.0, 1.2, 60.0))
    burst, pause = 24000, 32000
    talks = [np.concatenate([bursts(burst / 16000, seed), np.zeros(pause)]) for seed in range(1, 8)]
    wave = np.concatenate(talks).astype(np.float32)
    stream = engine.create_stream()
    stream.accept_waveform(16000, wave)
    stream.input_finished()
    start, said = 0, False
    while not (said and 640 * start % (burst + pause) > burst):  # it begins in silence
        engine.decode_streams([stream])
        if engine.is_endpoint(stream):
            said = bool(engine.result(stream).tokens)
            noticed, heard_until = stream.num_decoded, engine.windows.shown_at(stream) - 0.04 * context.chunk
            engine.reset(stream)
            start = stream.segment_start
    assert 0 < noticed - start <= 20
    fresh = engine.create_stream()
    fresh.has_endpoints = stream.has_endpoints = False
    fresh.accept_waveform(16000, wave[640 * start :])
    fresh.input_finished()
    for each in (stream, fresh):
        engine.decode_all([each])
    assert _heard(engine, stream, start) == _heard(engine, fresh)
    assert len(_heard(engine, fresh)) > 3
    # What was heard before is shown when the endpoint was noticed, and not in the past.
    shown = [max(heard_until, token.shown + 0.04 * start) for token in engine.result(fresh).tokens]
    assert [token.shown for token in engine.result(stream).tokens] == pytest.approx(shown)


def test_no_piece_of_a_final_result_is_heard_again() -> None:
    """Biasing takes open boosts back at the end: the final result is not the search's best until then."""
    bias = BiasingGraph([((9, 10), 4.0), ((3, 4, 6), 3.0), ((5, 6, 8), 2.0)])
    search, changed = BeamOptions(beam=4, blank_penalty=-3), 0
    for seed in (1, 5):
        rules = EndpointRules()
        engine = make_recognizer(
            Context(left=8, chunk=8), seed=seed, search=search, endpoints=rules, biasing=bias
        )
        stream = engine.create_stream()
        parts = [bursts(0.5, seed), np.zeros(32000, dtype=np.float32)] * 3
        stream.accept_waveform(16000, np.concatenate(parts))
        while engine.is_ready(stream):
            engine.decode_streams([stream])
            if engine.is_endpoint(stream):
                tokens, noticed = engine.result(stream).tokens, stream.num_decoded
                changed += bool(tokens) and noticed - 1 - tokens[-1].frame < stream.num_trailing_blanks
                engine.reset(stream)
                assert not tokens or stream.segment_start >= min(noticed, tokens[-1].frame + 11)
    assert changed


def test_no_pause_loses_the_word_that_begins_when_it_is_noticed() -> None:
    """The model says a tone when it is over; an endpoint between the two forgets it."""
    context, lost = Context(left=8, chunk=4), {}
    waves = [
        np.concatenate([spoken([0], [1280]), np.zeros(pause, dtype=np.float32), spoken([1], [1280])])
        for pause in range(12800, 38400, 320)
    ]
    for rehear in (0.0, 0.8):
        engine = make_spotter(context, endpoints=EndpointRules(rehear=rehear), tail_seconds=0.5)
        heard = [one.result.text for one in simulate_together(engine, waves)]
        lost[rehear] = len(heard) - heard.count("400.400 1000.1000")
    assert lost[0.0] > 0 and lost[0.8] == 0


def _utterance(seconds: float, seed: int) -> NDArray[np.float32]:
    """Whole chunks with silence on both sides."""
    silence = np.zeros(3 * WINDOW, dtype=np.float32)
    wave = np.concatenate([silence[:WINDOW], bursts(seconds, seed), silence])
    return wave[: len(wave) // WINDOW * WINDOW]


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@SEARCHES
@pytest.mark.parametrize("together", [False, True])
def test_word_times_of_a_joined_stream_are_those_of_the_single_ones(
    context: Context, search: SearchOptions | None, together: bool
) -> None:
    engine = make_recognizer(context, search=search, endpoints=QUICK, tail_seconds=0.2)
    waves = [_utterance(seconds, seed) for seed, seconds in enumerate([1.5, 0.7, 2.6], start=1)]
    joined = np.concatenate(waves)
    if together:
        together_all = simulate_together(engine, [*waves, joined])
        singles, whole = together_all[:-1], together_all[-1]
    else:
        singles, whole = [simulate(engine, wave) for wave in waves], simulate(engine, joined)
        assert whole.wall is not None and len(whole.wall) == len(whole.result.tokens)
        assert all(wall >= token.shown for wall, token in zip(whole.wall, whole.result.tokens, strict=True))
    offsets = np.cumsum([0, *map(len, waves)])[:-1] / 16000
    expected = [
        (word.text, round(word.start + offset, 4), round(word.end + offset, 4))
        for offset, single in zip(offsets, singles, strict=True)
        for word in single.result.words
    ]
    assert [(word.text, word.start, word.end) for word in whole.result.words] == expected
    assert len(expected) > 6
    parts = [segment for single in singles for segment in single.segments]
    assert [segment.text for segment in whole.segments] == [segment.text for segment in parts]
    assert [segment.segment for segment in whole.segments] == list(range(len(parts)))
    assert all(segment.is_final for segment in whole.segments)
    assert whole.result.text.split() == [word for part in whole.segments for word in part.text.split()]


def test_a_word_is_not_joined_across_segments() -> None:
    first, second = (
        Result(
            [Token(5, "\u2581CD", 3, 0.3, -0.1, 0.0), Token(4, "B", 4, 0.3, -0.1, 0.0)],
            True,
            frame_seconds=0.04,
        ),
        Result(
            [Token(6, "E", 90, 4.0, -0.1, 0.0), Token(3, "\u2581A", 95, 4.2, -0.1, 0.0)],
            True,
            segment=1,
            start=3.2,
            frame_seconds=0.04,
        ),
    )
    assert join_segments([first, second]).text == "CDB E A"
    # A letter that is not whole at the end of a segment is no letter in the joined text either.
    cut_letter = [word.text for word in group_words(["\u2581A", "<0xC3>", "E", "<0xC3>", "\u2581B"], [2, 4])]
    assert cut_letter == ["A", "E", "B"]
    assert [word.text for word in group_words(["\u2581", "A"], breaks=[1])] == ["A"]
    assert group_words(["\u2581", "A"], breaks=[1])[0].first_token == 1


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@pytest.mark.parametrize("together", [False, True])
def test_a_stream_cut_by_length_alone_says_what_the_uncut_one_says(context: Context, together: bool) -> None:
    wave = bursts(9.0, 1)
    heard = {}
    for rules in (None, EndpointRules(60.0, 60.0, 0.5), EndpointRules(60.0, 60.0, 0.5, keep_predictor=True)):
        engine = make_recognizer(context, endpoints=rules)
        heard[rules] = simulate_together(engine, [wave])[0] if together else simulate(engine, wave)
    uncut, cut, as_sherpa = heard.values()
    assert len(cut.segments) > 5 and len(uncut.result.tokens) > 9
    assert all(segment.goes_on for segment in cut.segments[1:]) and not cut.segments[0].goes_on
    assert cut.result == uncut.result and cut.result.words == uncut.result.words
    assert as_sherpa.result.tokens != uncut.result.tokens
    said = [one.text if one.continues_word else f" {one.text}" for one in cut.segments if one.text]
    assert "".join(said).strip() == uncut.result.text


def test_a_silent_segment_that_length_has_cut_carries_no_word_on() -> None:
    engine = make_spotter(Context(left=8, chunk=4), endpoints=EndpointRules(60.0, 0.3, 2.0))
    silence = np.zeros(40000, dtype=np.float32)
    parts = [silence, spoken([0], [8000]), silence, silence, spoken([1], [8000]), silence]
    heard = simulate(engine, np.concatenate(parts))
    assert [segment.goes_on for segment in heard.segments] == [False, False]
    assert len(heard.result.breaks) == 1


def test_beam_search_cut_by_length_goes_on_from_its_best_hypothesis() -> None:
    search, graph = BeamOptions(beam=3, blank_penalty=0.5), BiasingGraph([((9, 10), 2.0)])
    engine = make_recognizer(CONTEXTS[0], search=search, endpoints=EndpointRules(60.0, 60.0, 0.5))
    stream = engine.create_stream(graph)
    stream.accept_waveform(16000, bursts(3.0, 1))
    while not engine.is_endpoint(stream):
        engine.decode_streams([stream])
    said = [token.id for token in engine.result(stream).tokens]
    engine.reset(stream)
    (kept,) = stream.search_state.hypotheses
    assert kept.tokens == () and kept.score == 0.0 and stream.search_state.biasing is graph
    assert list(kept.context) == said[-len(kept.context) :]
    assert engine.result(stream).tokens == [] and engine.result(stream).goes_on


@pytest.mark.parametrize("search", [None, BeamOptions(beam=2)], ids=["greedy", "beam"])
def test_silence_alone_gives_nothing_and_no_segment(search: SearchOptions | None) -> None:
    engine = make_spotter(Context(left=8, chunk=4), endpoints=EndpointRules(), search=search)
    heard = simulate(engine, np.zeros(16000 * 12, dtype=np.float32))
    assert heard.result.tokens == [] and heard.segments == [] and heard.wall == []
    assert heard.result.is_final
    nothing = simulate(engine, np.zeros(0, dtype=np.float32))
    assert nothing.result.tokens == [] and nothing.segments == []


def test_segments_are_handed_out_as_they_end() -> None:
    engine = make_spotter(Context(left=8, chunk=4), endpoints=EndpointRules())
    pause = np.zeros(32000, dtype=np.float32)
    words = [spoken([0, 1], [8000, 8000]), pause, spoken([2], [8000]), pause, spoken([3], [8000])]
    stream, heard, wave = engine.create_stream(), [], np.concatenate(words)
    for start in range(0, len(wave), 1600):
        stream.accept_waveform(16000, wave[start : start + 1600])
        heard += [(result.text, result.segment) for _, result in engine.decode_segments([stream])]
    assert heard == [("400.400 1000.1000", 0), ("2000.2000", 1)]
    stream.input_finished()
    ((same, last),) = engine.decode_segments([stream])
    assert same is stream and (last.text, last.segment, last.is_final) == ("4000.4000", 2, True)
    assert last.start == pytest.approx(stream.segment_start / 25, abs=3)


def test_a_reset_keeps_the_predictor_only_if_asked_to() -> None:
    wave = np.concatenate([_utterance(1.5, 1), _utterance(2.6, 3)])
    told = {}
    for keep in (False, True):
        rules = EndpointRules(0.15, 0.3, 60.0, keep_predictor=keep)
        engine = make_recognizer(CONTEXTS[0], endpoints=rules)
        told[keep] = [segment.text for segment in simulate(engine, wave).segments]
    assert told[False][0] == told[True][0] and told[False][1:] != told[True][1:]
