"""The two searches behind one interface."""

from math import isfinite

import pytest
from decoding_helpers import Model, make_encoded, make_model

from kdasr.common.errors import UserError
from kdasr.decoding.beam import BeamOptions, BeamSearch, beam_search
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.greedy import greedy_search
from kdasr.decoding.search import GreedyOptions, GreedySearch, build_search, describe


@pytest.fixture
def model() -> Model:
    return make_model()


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
