"""The two searches behind one interface."""

import gc
from math import isfinite

import pytest
from decoding_helpers import KINDS, Model, make_encoded, make_model

from kdasr.common.errors import UserError
from kdasr.decoding.beam import BeamOptions, BeamSearch, beam_search
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.greedy import greedy_search
from kdasr.decoding.prefixes import Prefix
from kdasr.decoding.search import GreedyOptions, GreedySearch, SearchOptions, build_search, describe


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return make_model(kind=request.param)


def test_greedy_search_behind_the_interface_is_greedy_search(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([17, 5, 0, 30])
    expected = greedy_search(model, encoded_BTD, lens_B)
    search = build_search(model)
    assert isinstance(search, GreedySearch)
    states = [search.initial_state() for _ in range(4)]
    for start in range(0, 30, 7):
        before = [search.best(state) for state in states]
        later = search.advance(encoded_BTD[:, start : start + 7], (lens_B - start).clamp(0, 7), states)
        assert [search.best(state) for state in states] == before
        for state, old in zip(later, before, strict=True):
            tail = search.best(state, len(old.tokens))
            assert old.tokens + tail.tokens == search.best(state).tokens
        states = later
    assert [search.best(state, final=True) for state in states] == expected
    assert [search.num_settled(state) for state in states] == [len(h.tokens) for h in expected]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 1e-4},
        {"temperature": float("nan")},
        {"temperature": 1e4},
        {"blank_penalty": -1e5},
        {"beam": 0},
        {"beam": 2.5},
        {"lm_scale": float("inf")},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        BeamOptions(**wrong)  # type: ignore[arg-type]
    if "blank_penalty" in wrong:
        with pytest.raises(UserError, match="blank_penalty"):
            GreedyOptions(**wrong)


def test_the_extremes_still_give_finite_scores(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([9])
    for options in (
        BeamOptions(temperature=1e-3),
        BeamOptions(blank_penalty=-1e4),
        BeamOptions(blank_penalty=1e4),
    ):
        assert all(isfinite(n.score) for n in beam_search(model, encoded_BTD, lens_B, options)[0])


def test_greedy_search_refuses_what_it_cannot_do(model: Model) -> None:
    search = build_search(model, GreedyOptions())
    with pytest.raises(UserError, match="n-best"):
        search.nbest(search.initial_state())
    with pytest.raises(UserError, match="biasing needs beam search"):
        search.initial_state(BiasingGraph([((3,), 1.0)]))
    with pytest.raises(UserError, match="language model needs beam search"):
        build_search(model, GreedyOptions(), object())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="blank_penalty"):
        GreedyOptions(blank_penalty=float("nan"))


def test_searches_are_described_by_what_is_not_default(model: Model) -> None:
    assert isinstance(build_search(model, BeamOptions()), BeamSearch)
    assert describe(GreedyOptions()) == "greedy"
    assert describe(GreedyOptions(blank_penalty=0.5)) == "greedy blank_penalty=0.5"
    assert describe(BeamOptions()) == "beam"
    assert describe(BeamOptions(beam=8, temperature=1.5)) == "beam beam=8 temperature=1.5"


@pytest.mark.parametrize("options", [GreedyOptions(), BeamOptions(beam=1, length_norm=False)], ids=describe)
def test_a_segment_goes_on_where_the_one_before_was_cut(model: Model, options: SearchOptions) -> None:
    encoded_BTD, lens_B = make_encoded([30, 24], seed=11)
    search = build_search(model, options)
    states = search.advance(encoded_BTD, lens_B, [search.initial_state(), search.initial_state()])
    uncut = [search.best(state).tokens for state in states]
    first = search.advance(encoded_BTD[:, :12], lens_B.clamp(max=12), [search.initial_state()] * 2)
    second = search.advance(encoded_BTD[:, 12:], lens_B - 12, [search.continued(state) for state in first])
    found = [search.best(a).tokens + search.best(b).tokens for a, b in zip(first, second, strict=True)]
    assert found == uncut and all(search.best(state).tokens for state in first)


def test_greedy_search_hears_what_it_carried_over_until_an_empty_segment(model: Model) -> None:
    """As after an endpoint in sherpa-onnx: without a piece, what was said counts until the next one only."""
    encoded_BTD, lens_B = make_encoded([30], seed=11)
    search = build_search(model)
    [state] = search.advance(encoded_BTD[:, :12], lens_B.clamp(max=12), [search.initial_state()])
    expected = search.advance(encoded_BTD[:, 12:], lens_B - 12, [search.continued(state)])
    found = search.advance(encoded_BTD[:, 12:], lens_B - 12, [search.carried_over(state)])
    assert search.best(found[0]) == search.best(expected[0])
    empty = search.carried_over(search.carried_over(state))
    assert empty.predicting == state.predicting
    assert empty.context == search.initial_state().context


def test_a_long_stream_forgets_what_its_hypotheses_no_longer_need() -> None:
    model = make_model(kind="memory")
    for options in (GreedyOptions(), BeamOptions(beam=4)):
        search = build_search(model, options)
        states = [search.initial_state(), search.initial_state()]
        for seed in range(30):
            encoded_BTD, lens_B = make_encoded([16, 9], seed=seed)
            states = search.advance(encoded_BTD, lens_B, states)
        alive = sum(type(thing) is Prefix for thing in gc.get_objects())
        assert sum(len(search.best(state).tokens) for state in states) > 200
        assert 0 < alive < 60, "a few per hypothesis"


def test_a_beam_carries_over_what_each_hypothesis_has_heard() -> None:
    model = make_model(kind="memory")
    search = BeamSearch(model, BeamOptions(beam=4))
    encoded_BTD, lens_B = make_encoded([30], seed=11)
    [state] = search.advance(encoded_BTD, lens_B, [search.initial_state()])
    carried = search.carried_over(state)
    start, *heard = carried.hypotheses
    assert start.context is search.initial_state().hypotheses[0].context
    assert [(h.context, h.score) for h in heard] == [(h.context, h.score) for h in state.hypotheses]
    later = search.advance(encoded_BTD[:, :8], lens_B.clamp(max=8), [carried])[0]
    assert len({(h.origin, h.tokens) for h in later.hypotheses}) == len(later.hypotheses)
    twice = search.carried_over(later)
    assert len(twice.hypotheses) <= 5 and search.advance(encoded_BTD, lens_B, [twice])
