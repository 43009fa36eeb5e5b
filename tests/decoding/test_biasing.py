"""The automaton's law on random phrases, and what biasing does to a search."""

from pathlib import Path

import pytest
import torch
from decoding_helpers import Model, make_encoded, make_model
from hypothesis import given
from hypothesis import strategies as st

from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.beam import BeamOptions, beam_search
from kdasr.decoding.biasing import DEFAULT_BOOST, BiasingGraph, Phrase, read_phrases

VOCAB = 7

pieces = st.integers(3, 5)
phrase = st.tuples(st.lists(pieces, min_size=1, max_size=4).map(tuple), st.sampled_from([0.0, 0.5, 1.0, 3.0]))


def _walk(graph: BiasingGraph, history: list[int]) -> tuple[float, int]:
    total, state = 0.0, 0
    for piece in history:
        score, state = graph.step(state, piece)
        total += score
    return total, state


@given(st.lists(phrase, max_size=6), st.lists(pieces, max_size=12))
def test_what_is_given_and_not_taken_back_is_the_boost_of_the_phrases(
    phrases: list[tuple[tuple[int, ...], float]], history: list[int]
) -> None:
    graph = BiasingGraph(phrases)
    total, state = _walk(graph, history)
    boosts: dict[tuple[int, ...], float] = {}
    for phrase_pieces, boost in phrases:
        boosts[phrase_pieces] = max(boost, boosts.get(phrase_pieces, 0.0))
    occurring = sum(
        boost * len(phrase_pieces)
        for phrase_pieces, boost in boosts.items()
        for start in range(len(history))
        if tuple(history[start : start + len(phrase_pieces)]) == phrase_pieces
    )
    assert total + graph.final_score(state) == pytest.approx(occurring)
    row = graph.scores(state, VOCAB).tolist()
    assert row == pytest.approx([graph.step(state, piece)[0] for piece in range(VOCAB)])


def test_the_boost_of_a_broken_phrase_is_taken_back() -> None:
    graph = BiasingGraph([((3, 4, 5), 2.0)])
    assert [_walk(graph, history)[0] for history in ([3], [3, 4], [3, 4, 5])] == [2.0, 4.0, 6.0]
    assert [_walk(graph, history)[0] for history in ([3, 6], [3, 4, 4], [3, 4, 3])] == [0.0, 0.0, 2.0]
    # Where phrases begin alike, the larger boost is given on the way.
    for phrases in ([((3, 4), 2.0), ((3, 5), 0.5)], [((3, 5), 0.5), ((3, 4), 2.0)]):
        assert [_walk(BiasingGraph(phrases), history)[0] for history in ([3], [3, 5])] == [2.0, 1.0]
    # A completed phrase keeps its boost, and a longer one over it goes on counting.
    longer = BiasingGraph([((3, 4), 2.0), ((3, 4, 5), 2.0)])
    assert [_walk(longer, history)[0] for history in ([3, 4, 6], [3, 4, 5], [3, 4, 5, 6])] == [
        4.0,
        10.0,
        10.0,
    ]


def test_pieces_that_no_vocabulary_or_not_every_one_has() -> None:
    assert BiasingGraph([((3, 9, 4), 1.0), ((5,), 1.0)]).largest_piece == 9
    assert BiasingGraph([]).largest_piece == -1
    with pytest.raises(ValueError, match="piece -1"):
        BiasingGraph([((3, -1), 1.0)])


@pytest.fixture
def model() -> Model:
    return make_model()


@pytest.mark.parametrize("late", [False, True])
def test_a_boost_of_nothing_changes_nothing(model: Model, late: bool) -> None:
    encoded_BTD, lens_B = make_encoded([17, 30])
    options = BeamOptions(late_fusion=late)
    plain = beam_search(model, encoded_BTD, lens_B, options)
    graph = BiasingGraph([((3, 4), 0.0), ((5,), 0.0)])
    assert beam_search(model, encoded_BTD, lens_B, options, biasing=[graph, graph]) == plain
    strong = BiasingGraph([((3, 4), 3.0), ((5,), 3.0)])
    assert beam_search(model, encoded_BTD, lens_B, options, biasing=[strong, strong]) != plain


def test_a_phrase_is_boosted_in_its_own_stream_only(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([4])
    options = BeamOptions(beam=VOCAB**4, length_norm=False)
    best, *others = beam_search(model, encoded_BTD, lens_B, options)[0]
    rival = next(n for n in others if len(n.tokens) == 2 and n.tokens != best.tokens[:2])
    boost = (best.score - rival.score) / 2 + 0.1
    graph = BiasingGraph([(rival.tokens, boost)])
    twice_BTD = torch.cat([encoded_BTD, encoded_BTD])
    unbiased, biased = beam_search(model, twice_BTD, lens_B.repeat(2), options, biasing=[None, graph])
    assert unbiased[0].tokens == best.tokens and biased[0].tokens == rival.tokens
    assert biased[0].fused == pytest.approx(2 * boost)
    assert biased[0].score == pytest.approx(rival.score + 2 * boost, abs=1e-4)


def test_an_unfinished_phrase_gains_nothing_in_the_end(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([17])
    options = BeamOptions(beam=1, late_fusion=True)
    plain = beam_search(model, encoded_BTD, lens_B, options)[0][0]
    graph = BiasingGraph([((*plain.tokens, 6), 0.25)])
    biased = beam_search(model, encoded_BTD, lens_B, options, biasing=[graph])[0][0]
    assert biased.tokens == plain.tokens and len(plain.tokens) > 3
    assert (biased.score, biased.fused) == pytest.approx((plain.score, 0.0), abs=1e-4)


def test_phrases_become_pieces(tokenizer: Tokenizer) -> None:
    graph = BiasingGraph.from_phrases([Phrase("SEVEN NINE"), Phrase("TEN", 4.0)], tokenizer)
    encoded = tokenizer.encode("SEVEN NINE")
    assert _walk(graph, encoded)[0] == pytest.approx(DEFAULT_BOOST * len(encoded))
    encoded = tokenizer.encode("TEN")
    assert _walk(graph, encoded)[0] == pytest.approx(4.0 * len(encoded))


@pytest.mark.parametrize(
    ("text", "boost", "message"),
    [
        ("one", 1.0, "'one': a character"),
        (" ", 1.0, "no words"),
        ("ONE", -1.0, "'ONE': a boost of -1.0"),
        ("ONE", 1e300, r"'ONE': a boost of 1e\+300; expected a number from 0 to 100"),
    ],
)
def test_phrases_that_cannot_be_boosted_are_named(
    tokenizer: Tokenizer, text: str, boost: float, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        BiasingGraph.from_phrases([Phrase(text, boost)], tokenizer)


def test_a_file_of_phrases(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("\ufeffNEW YORK\n\n  THE HAGUE \t2.5\r\nULM\x85UM\t0\n", encoding="utf-8", newline="")
    assert read_phrases(path) == [Phrase("NEW YORK"), Phrase("THE HAGUE", 2.5), Phrase("ULM\x85UM", 0.0)]
    for text, message in [
        ("A\nB\tmuch\n", "line 2: 'much'"),
        ("A\t-1\n", "line 1: '-1'"),
        ("A\tnan\n", "line 1: 'nan'"),
        ("A\t1e300\n", "line 1: '1e300' is no boost; expected a number from 0 to 100"),
        ("\t2\n", "line 1: a boost without a phrase"),
        ("\n\n", "no phrases"),
    ]:
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_phrases(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="UTF-8"):
        read_phrases(path)
    with pytest.raises(UserError, match="no such file"):
        read_phrases(tmp_path / "nowhere.txt")
