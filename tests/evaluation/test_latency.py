"""Latency by hand, words from pieces, and the simulated clock."""

import numpy as np
import pytest
from streaming_helpers import bursts, make_recognizer

from kdasr.evaluation.latency import RefWord, energy_onset, first_visible, measure
from kdasr.evaluation.latency_summary import compare_first_words, first_token_shares, first_word_summary
from kdasr.evaluation.wer import align_words
from kdasr.nn.context import Context
from kdasr.recognition.result import WordSpan, group_words
from kdasr.recognition.simulate import simulate

REF = [RefWord("THE", 0.5, 0.6), RefWord("CAT", 0.6, 1.0), RefWord("SAT", 1.1, 1.5)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([], []),
        (["▁THE", "▁C", "AT"], [WordSpan("THE", 0, 0), WordSpan("CAT", 1, 2)]),
        (["T", "HE", "▁C"], [WordSpan("THE", 0, 1), WordSpan("C", 2, 2)]),
        (["▁", "A", "▁B"], [WordSpan("A", 0, 1), WordSpan("B", 2, 2)]),
        (["▁A", "▁", "▁", "B"], [WordSpan("A", 0, 0), WordSpan("B", 1, 3)]),
        (["▁A", "▁", "▁B", "▁"], [WordSpan("A", 0, 0), WordSpan("B", 1, 2)]),
        (["▁"], []),
    ],
)
def test_words_from_pieces(pieces: list[str], expected: list[WordSpan]) -> None:
    assert group_words(pieces) == expected


def test_measures_of_a_hand_made_utterance() -> None:
    pieces = ["▁TH", "E", "▁BAT", "▁SA", "T"]
    shown = [0.8, 1.2, 1.2, 1.6, 2.0]
    wall = [0.9, 1.3, 1.4, 1.7, 2.1]
    words = group_words(pieces)
    pairs = align_words([ref.word for ref in REF], [word.text for word in words])
    latency = measure(words, shown, wall, REF, pairs)
    assert latency.first_token_ms == pytest.approx(300.0)
    assert latency.first_token_wall_ms == pytest.approx(400.0)
    assert latency.emission_delay_ms == pytest.approx([600.0, 500.0])  # BAT is wrong: it has no delay
    assert latency.finalization_ms == pytest.approx(500.0)


def test_a_word_is_shown_when_its_last_revised_piece_is() -> None:
    words = group_words(["▁THE", "▁CA", "T"])
    shown, wall = [0.8, 1.6, 1.2], [0.9, 1.8, 1.3]  # a search put CA there after T
    pairs = align_words([ref.word for ref in REF], [word.text for word in words])
    latency = measure(words, shown, wall, REF, pairs)
    assert latency.emission_delay_ms == pytest.approx([200.0, 600.0])
    assert latency.finalization_ms is None  # the last word is missing
    assert measure(words, shown, wall, REF[:2], pairs[:2]).finalization_ms == pytest.approx(600.0)


@pytest.mark.parametrize(
    ("pieces", "shown", "token", "token_ms", "word_ms"),
    [
        (["▁TH", "E", "▁CAT"], [0.7, 0.9, 1.2], "right", 200.0, 400.0),
        (["▁BAT", "▁SAT"], [0.7, 1.6], "wrong", 200.0, None),  # THE was missed
        (["▁A", "▁THE", "▁CAT"], [0.6, 0.9, 1.2], "wrong", 100.0, 400.0),  # A was put before it
        (["▁THE", "▁CAT"], [0.2, 1.2], "premature", -300.0, None),  # a guess
        (["▁TH", "E", "▁CAT"], [0.2, 0.9, 1.2], "premature", -300.0, 400.0),
        (["▁BAT"], [0.2], "premature", -300.0, None),
        ([], [], "missing", None, None),
        (["▁"], [0.7], "missing", None, None),
        (["▁THE"], [0.5], "right", 0.0, 0.0),  # at the onset is not before it
    ],
)
def test_the_first_token_and_the_first_word(
    pieces: list[str], shown: list[float], token: str, token_ms: float | None, word_ms: float | None
) -> None:
    words = group_words(pieces)
    pairs = align_words([ref.word for ref in REF], [word.text for word in words])
    wall = [seconds + 0.1 for seconds in shown]
    latency = measure(words, shown, wall, REF, pairs, None, first_visible(pieces))
    assert latency.first_token == token
    assert latency.first_token_ms == (None if token_ms is None else pytest.approx(token_ms))
    assert latency.first_word_ms == (None if word_ms is None else pytest.approx(word_ms))
    wall_ms = latency.first_word_wall_ms
    assert wall_ms == (None if word_ms is None else pytest.approx(word_ms + 100.0))


def test_first_words_are_compared_where_both_are_right() -> None:
    ours = {"a": 300.0, "b": 500.0, "c": None, "d": 700.0}
    theirs = {"a": 400.0, "b": None, "c": 100.0, "d": 750.0}
    found = compare_first_words(ours, theirs)
    assert (found.gain.estimate, found.gain.count, found.coverage) == (pytest.approx(75.0), 2, 0.5)
    assert compare_first_words({"a": None}, {"a": 1.0}).as_json()["first_word_gain_ms"] is None
    summary = first_word_summary([300.0, None, None], ["right", "missing", None])
    assert (summary["mean"], summary["count"], summary["coverage"]) == (300.0, 1, 0.5)
    shares = first_token_shares(["right", "wrong", "premature", "right", None])
    assert shares == {"right": 0.5, "wrong": 0.25, "premature": 0.25, "missing": 0.0, "count": 4}


def test_a_bare_word_boundary_is_no_first_token() -> None:
    pieces = ["▁", "▁", "TH", "E"]
    first = first_visible(pieces)
    latency = measure(group_words(pieces), [0.1, 0.2, 0.8, 1.2], [0.2, 0.3, 0.9, 1.3], REF, [], None, first)
    assert latency.first_token_ms == pytest.approx(300.0)
    assert latency.first_token_wall_ms == pytest.approx(400.0)
    nothing = first_visible(["▁"])
    assert measure([], [0.1], [0.2], REF, [], None, nothing).first_token_ms is None


def test_nothing_recognized_and_no_alignment() -> None:
    silent = measure([], [], [], REF, align_words(["THE", "CAT", "SAT"], []))
    assert (silent.first_token_ms, silent.emission_delay_ms, silent.finalization_ms) == (None, [], None)
    unaligned = measure([WordSpan("A", 0, 0)], [0.7], [0.8], [], align_words(["A"], ["A"]), onset=0.25)
    assert unaligned.first_token_ms == pytest.approx(450.0)
    assert (unaligned.emission_delay_ms, unaligned.finalization_ms) == ([], None)
    assert measure([WordSpan("A", 0, 0)], [0.7], [0.8], [], []).first_token_ms is None


@pytest.mark.parametrize("background", [0.0, 1e-4, 0.01])
def test_energy_onset(background: float) -> None:
    generator = np.random.default_rng(0)
    wave = background * generator.normal(size=32000)
    wave[11200:24000] += 0.1 * generator.normal(size=12800)
    wave[3200:3360] += 0.1  # a click is not speech
    onset = energy_onset(wave.astype(np.float32))
    assert onset == pytest.approx(0.7, abs=0.011)


def test_energy_onset_of_what_has_none() -> None:
    noise = 0.1 * np.random.default_rng(0).normal(size=16000)
    assert energy_onset(noise.astype(np.float32)) is None
    assert energy_onset(np.zeros(16000, np.float32)) is None
    assert energy_onset(np.zeros(10, np.float32)) is None


class _Clock:
    """Every look at the clock costs a fixed time."""

    def __init__(self, cost: float) -> None:
        self.now, self.cost = 0.0, cost

    def __call__(self) -> float:
        self.now += self.cost
        return self.now


@pytest.mark.parametrize("context", [Context(left=8, chunk=4), Context.full()], ids=str)
def test_a_fast_machine_shows_tokens_as_they_become_available(context: Context) -> None:
    result = simulate(make_recognizer(context), bursts(2.5, seed=2), timer=_Clock(0.0))
    assert result.result.tokens
    assert result.wall == pytest.approx([token.shown for token in result.result.tokens])
    assert result.compute_seconds == 0.0


def test_a_slow_machine_queues() -> None:
    wave = bursts(2.5, seed=2)
    engine = make_recognizer(Context(left=8, chunk=4))
    slow = simulate(engine, wave, timer=_Clock(0.2))
    shown = [token.shown for token in slow.result.tokens]
    assert slow.result == simulate(engine, wave).result
    assert all(wall > token + 0.2 for wall, token in zip(slow.wall, shown, strict=True))
    assert slow.wall == sorted(slow.wall)
    # Every packet costs more than it lasts, so that the delay grows to the end.
    assert slow.wall[-1] - shown[-1] > slow.wall[0] - shown[0] + 0.5
    assert slow.wall[-1] <= slow.compute_seconds + 0.1


def test_simulation_of_nothing() -> None:
    nothing = simulate(make_recognizer(Context(left=8, chunk=4)), np.zeros(0, np.float32))
    assert nothing.result.tokens == [] and nothing.wall == []
