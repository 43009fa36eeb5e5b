"""Modified beam search against its definition and against enumeration; resumed, batched, ranked."""

import pytest
import torch
from decoding_helpers import (
    KINDS,
    VOCAB,
    Model,
    all_sequences,
    log_probs_after,
    make_encoded,
    make_model,
    plain_beam_search,
)

from kdasr.common.errors import UserError
from kdasr.decoding.beam import BeamOptions, BeamSearch, beam_search
from kdasr.decoding.expansion import BeamHypothesis
from kdasr.decoding.greedy import greedy_search
from kdasr.decoding.hypothesis import NBest, settle, settled_emissions
from kdasr.models.predictors.base import LastPieces

# Shapes: B utterances, T frames, D width.

LENS = [17, 5, 0, 30]


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return make_model(kind=request.param)


def _outline(found: list[NBest]) -> list[tuple[list[int], list[int], float]]:
    return [(entry.tokens, entry.frames, pytest.approx(entry.score, abs=1e-4)) for entry in found]


@pytest.mark.parametrize(
    "options",
    [
        BeamOptions(),
        BeamOptions(beam=1),
        BeamOptions(beam=2, length_norm=False),
        BeamOptions(beam=VOCAB + 5),
        BeamOptions(beam=3, blank_penalty=1.5),
        BeamOptions(beam=3, blank_penalty=-1.0, temperature=2.0),
    ],
    ids=str,
)
def test_the_search_finds_what_its_definition_says(model: Model, options: BeamOptions) -> None:
    encoded_BTD, lens_B = make_encoded(LENS)
    found = beam_search(model, encoded_BTD, lens_B, options)
    for row, length in enumerate(LENS):
        expected = plain_beam_search(model, encoded_BTD[row, :length], options)
        # The predictor's start counts in the norm.
        start = model.num_start_pieces
        expected.sort(key=lambda e: e[2] / (len(e[0]) + start) if options.length_norm else e[2], reverse=True)
        assert [(list(pieces), frames, score) for pieces, frames, score in expected] == _outline(found[row])


def test_a_beam_of_one_is_greedy_search(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([25, 9, 0, 40], seed=1)
    greedy = greedy_search(model, encoded_BTD, lens_B)
    narrow = beam_search(model, encoded_BTD, lens_B, BeamOptions(beam=1))
    assert [(h.tokens, h.frames) for h in greedy] == [(n[0].tokens, n[0].frames) for n in narrow]
    wide = beam_search(model, encoded_BTD, lens_B, BeamOptions(beam=4))
    assert any(h.tokens != n[0].tokens for h, n in zip(greedy, wide, strict=True))


def test_a_wide_beam_adds_up_all_alignments() -> None:
    model = make_model(vocab=5, sharpness=1.0)
    encoded_BTD, lens_B = make_encoded([5])
    expected = all_sequences(model, encoded_BTD[0])
    found = beam_search(model, encoded_BTD, lens_B, BeamOptions(beam=5**5))[0]
    assert {tuple(entry.tokens): entry.score for entry in found} == pytest.approx(expected, abs=1e-4)
    assert sum(torch.tensor(entry.score).exp() for entry in found) == pytest.approx(1.0, abs=1e-4)


def test_pieces_carry_the_probability_that_the_model_gave_them(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([20], seed=2)
    options = BeamOptions(beam=3, blank_penalty=0.5, temperature=1.5)
    for found in beam_search(model, encoded_BTD, lens_B, options)[0]:
        assert found.tokens and found.fused == 0.0
        for place, (piece, frame) in enumerate(zip(found.tokens, found.frames, strict=True)):
            before = tuple(found.tokens[:place])
            given = log_probs_after(model, encoded_BTD[0, frame], before, 0.5, 1.5)[piece]
            assert found.log_probs[place] == pytest.approx(given, abs=1e-4)


def test_a_batch_equals_its_utterances_one_by_one(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded(LENS)
    batched = beam_search(model, encoded_BTD, lens_B)
    for row, length in enumerate(LENS):
        alone = beam_search(model, encoded_BTD[row : row + 1, :length], lens_B[row : row + 1])[0]
        assert [(n.tokens, n.frames) for n in alone] == [(n.tokens, n.frames) for n in batched[row]]
        assert [n.score for n in alone] == pytest.approx([n.score for n in batched[row]], abs=1e-4)
    assert all(len(found) > 1 for found in batched[:2])


def test_streams_of_different_ages_share_a_batch(model: Model) -> None:
    encoded_BTD, _ = make_encoded([12, 12], seed=7)
    search = BeamSearch(model, BeamOptions(beam=15))
    old = search.advance(encoded_BTD[:1, :6], torch.tensor([6]), [search.initial_state()])[0]
    for order in ([old, search.initial_state()], [search.initial_state(), old]):
        together = search.advance(encoded_BTD[:, 6:], torch.tensor([6, 6]), order)
        for row, state in enumerate(order):
            alone = search.advance(encoded_BTD[row : row + 1, 6:], torch.tensor([6]), [state])[0]
            assert _outline(search.nbest(alone)) == [
                (n.tokens, n.frames, n.score) for n in search.nbest(together[row])
            ]


def test_scores_are_compared_as_finely_after_an_hour(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([12], seed=8)
    search = BeamSearch(model, BeamOptions(length_norm=False))
    young = search.initial_state()
    start = young.hypotheses[0]
    old = young._replace(hypotheses=(BeamHypothesis((), (), start.context, score=-1e6),))
    (first,), (second,) = (search.advance(encoded_BTD, lens_B, [state]) for state in (young, old))
    gaps = [a.score - b.score for a, b in zip(search.nbest(first), search.nbest(second), strict=True)]
    assert gaps == pytest.approx([1e6] * len(gaps), abs=1e-5) and len(gaps) > 2


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 7, 10]], ids=str)
def test_resumed_search_equals_whole_search(model: Model, sizes: list[int]) -> None:
    encoded_BTD, lens_B = make_encoded([20, 13], seed=100)
    search = BeamSearch(model, BeamOptions(beam=4))
    whole = search.advance(encoded_BTD, lens_B, [search.initial_state() for _ in range(2)])
    states, start = [search.initial_state() for _ in range(2)], 0
    for size in sizes:
        chunk_lens = (lens_B - start).clamp(0, size)
        before, old = [search.nbest(state) for state in states], states
        states = search.advance(encoded_BTD[:, start : start + size], chunk_lens, states)
        assert [search.nbest(state) for state in old] == before  # a state is never changed
        for state in states:
            best, settled = search.best(state), search.num_settled(state)
            later = search.best(state, settled - 1 if settled else 0)
            assert later.tokens == best.tokens[max(0, settled - 1) :]
            assert search.best(state, len(best.tokens) - 1 if best.tokens else 0).tokens == best.tokens[-1:]
            # Displayed pieces that are settled stand as they are for good.
            end = search.advance(encoded_BTD[:1, start + size :], torch.tensor([20]), [state])[0]
            assert search.best(end).tokens[:settled] == best.tokens[:settled]
        start += size
    for one, other in zip(states, whole, strict=True):
        assert _outline(search.nbest(one)) == [(n.tokens, n.frames, n.score) for n in search.nbest(other)]
    assert search.num_settled(states[0]) > 0


def test_nbest_lists_are_sorted_and_without_repeats(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([40], seed=5)
    for length_norm in (True, False):
        search = BeamSearch(model, BeamOptions(beam=8, length_norm=length_norm))
        state = search.advance(encoded_BTD, lens_B, [search.initial_state()])[0]
        found = search.nbest(state)
        start = model.num_start_pieces
        ranks = [n.score / (len(n.tokens) + start) if length_norm else n.score for n in found]
        assert ranks == sorted(ranks, reverse=True) and len(found) > 2
        assert len({tuple(n.tokens) for n in found}) == len(found)
        best = search.best(state)
        assert (best.tokens, best.frames) == (found[0].tokens, found[0].frames)
        assert search.nbest(state, 2) == found[:2]


def test_the_predictor_runs_once_per_context(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([60, 60], seed=6)
    beam_search(model, encoded_BTD, lens_B)
    # Of 49 contexts of two pieces, not of up to eight hypotheses in each of 60 frames. With a memory, of
    # those that are new.
    assert 0 < model.predictor.calls < (60 if model.num_start_pieces == 2 else 300)


def test_a_full_predictor_cache_starts_anew() -> None:
    from kdasr.decoding.contexts import PredictorCache

    model = make_model()
    cache = PredictorCache(model, capacity=3)  # type: ignore[arg-type]
    contexts = [(-1, 0), (0, 3), (3, 4), (4, 5), (0, 3)]
    for start in (0, 1, 2, 0):
        asked = contexts[start : start + 3]
        expected = model.joiner.project_predictor(model.predictor.predict(LastPieces(torch.tensor(asked))))
        torch.testing.assert_close(cache.gather(asked), expected)
    everything = model.joiner.project_predictor(model.predictor.predict(LastPieces(torch.tensor(contexts))))
    torch.testing.assert_close(cache.gather(contexts), everything)


def test_a_long_stream_settles_and_its_chain_is_read_from_anywhere(model: Model) -> None:
    search = BeamSearch(model)
    state = search.initial_state()
    for seed in range(40):
        encoded_BTD, lens_B = make_encoded([16], seed=100 + seed)
        state = search.advance(encoded_BTD, lens_B, [state])[0]
    total = len(search.best(state).tokens)
    assert search.num_settled(state) > 0.9 * total > 200
    chain, expected = None, []
    for number in range(50_000):  # longer than the interpreter's stack
        emissions = [(number, 2 * number)] * (number % 3)
        chain = settle(chain, emissions)
        expected += emissions
    for start in (0, 1, 2, 777, len(expected) - 1, len(expected), len(expected) + 5):
        assert settled_emissions(chain, start) == expected[start:]


@pytest.mark.parametrize(
    "wrong",
    [{"beam": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"blank_penalty": float("inf")}],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        BeamOptions(**wrong)  # type: ignore[arg-type]
