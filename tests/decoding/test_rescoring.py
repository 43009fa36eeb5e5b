"""The neural language model in decoding: fusion against brute force, rescoring against fusion."""

import pytest
import torch
from decoding_helpers import Model, all_sequences, make_encoded, make_model
from torch import Tensor

from kdasr.decoding.beam import BeamOptions, BeamSearch, BeamState, beam_search
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.hypothesis import NBest
from kdasr.decoding.rescoring import Rescoring, RescoringSearch, WordBonus, rescore
from kdasr.decoding.search import build_search
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel

VOCAB = 5
EVERYTHING = VOCAB**4


@pytest.fixture
def model() -> Model:
    return make_model(vocab=VOCAB, sharpness=1.0)


@pytest.fixture
def lm() -> TransformerLanguageModel:
    """A random model whose window of three places is shorter than the sentences."""
    config = LanguageModelConfig(VOCAB, 2, 8, 2, 16, dropout=0.0, context=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        model = TransformerLanguageModel(config).eval()
        with torch.no_grad():
            model.embedding.weight.mul_(60)
            model.output_bias_V.normal_()
    return model.requires_grad_(False)


def total(lm: TransformerLanguageModel, pieces: tuple[int, ...]) -> float:
    return float(lm.log_probs(torch.tensor([pieces], dtype=torch.int64), torch.tensor([len(pieces)])))


def searched(search: BeamSearch, encoded_BTD: Tensor, lens_B: Tensor) -> list[BeamState]:
    return search.advance(encoded_BTD, lens_B, [search.initial_state() for _ in lens_B])


def test_fusion_with_the_neural_model_finds_what_enumeration_finds(
    model: Model, lm: TransformerLanguageModel
) -> None:
    encoded_BTD, lens_B = make_encoded([4])
    scale = 0.7
    found = beam_search(model, encoded_BTD, lens_B, BeamOptions(beam=EVERYTHING, lm_scale=scale), lm)[0]
    acoustic = all_sequences(model, encoded_BTD[0])
    expected = {pieces: score + scale * total(lm, pieces) for pieces, score in acoustic.items()}
    assert {tuple(n.tokens): n.score for n in found} == pytest.approx(expected, abs=1e-3)
    assert len({round(total(lm, pieces), 2) for pieces in acoustic}) > 20


def test_rescoring_a_full_list_is_fusion(model: Model, lm: TransformerLanguageModel) -> None:
    encoded_BTD, lens_B = make_encoded([4, 3])
    options = BeamOptions(beam=EVERYTHING, lm_scale=0.7)
    fused = beam_search(model, encoded_BTD, lens_B, options, lm)
    search = build_search(model, BeamOptions(beam=EVERYTHING), Rescoring(lm, 0.7))
    states = searched(search, encoded_BTD, lens_B)
    for state, expected in zip(states, fused, strict=True):
        found = search.nbest(state, final=True)
        assert [n.tokens for n in found[:20]] == [n.tokens for n in expected[:20]]
        assert [n.score for n in found[:20]] == pytest.approx([n.score for n in expected[:20]], abs=1e-3)
        assert [n.fused for n in found[:20]] == pytest.approx([n.fused for n in expected[:20]], abs=1e-3)
        assert search.best(state, final=True).tokens == expected[0].tokens


def test_only_the_end_is_rescored(model: Model, lm: TransformerLanguageModel) -> None:
    encoded_BTD, lens_B = make_encoded([6])
    plain = BeamSearch(model, BeamOptions(beam=8))
    search = RescoringSearch(plain, Rescoring(lm, 2.0))
    state = searched(search, encoded_BTD, lens_B)[0]
    assert search.nbest(state) == plain.nbest(state)
    assert search.best(state) == plain.best(state)
    rescored, before = search.nbest(state, final=True), plain.nbest(state, final=True)
    assert rescored[0].tokens != before[0].tokens
    assert {tuple(n.tokens) for n in rescored} == {tuple(n.tokens) for n in before}
    # A cut segment goes on from what it said.
    for engine, best in ((search, rescored[0]), (plain, before[0])):
        (kept,) = engine.continued(state).hypotheses
        assert list(kept.context) == [0, 0, *best.tokens][-len(kept.context) :]
    assert search.nbest(state, 3, final=True) == rescored[:3]
    best = search.best(state, 1, final=True)
    assert (best.tokens, best.frames) == (rescored[0].tokens[1:], rescored[0].frames[1:])


def test_what_biasing_added_stays(model: Model, lm: TransformerLanguageModel) -> None:
    encoded_BTD, lens_B = make_encoded([6])
    graph = BiasingGraph([((3,), 2.0)])
    plain = BeamSearch(model, BeamOptions(beam=8))
    state = plain.advance(encoded_BTD, lens_B, [plain.initial_state(graph)])[0]
    before = {tuple(n.tokens): n for n in plain.nbest(state, final=True)}
    for entry in RescoringSearch(plain, Rescoring(lm, 0.5)).nbest(state, final=True):
        added = 0.5 * total(lm, tuple(entry.tokens))
        assert entry.score == pytest.approx(before[tuple(entry.tokens)].score + added, abs=1e-4)
        assert entry.fused == pytest.approx(before[tuple(entry.tokens)].fused + added, abs=1e-4)


def test_rank_is_per_piece_unless_told_otherwise(model: Model, lm: TransformerLanguageModel) -> None:
    encoded_BTD, lens_B = make_encoded([6])
    for norm in (True, False):
        search = RescoringSearch(
            BeamSearch(model, BeamOptions(beam=30, length_norm=norm)), Rescoring(lm, 0.4)
        )
        listed = search.nbest(searched(search, encoded_BTD, lens_B)[0], final=True)
        ranks = [n.score / (len(n.tokens) + 2) if norm else n.score for n in listed]
        assert ranks == sorted(ranks, reverse=True) and len({len(n.tokens) for n in listed}) > 1


def test_with_a_bonus_the_highest_sum_of_all_hypotheses_wins(
    model: Model, lm: TransformerLanguageModel
) -> None:
    """Against enumeration, where pieces with an odd number begin a word."""
    encoded_BTD, lens_B = make_encoded([4])
    acoustic, bests = all_sequences(model, encoded_BTD[0]), []
    for nats in (-2.0, 0.0, 3.0):
        bonus = WordBonus(nats, lambda pieces: sum(piece % 2 for piece in pieces))
        search = build_search(model, BeamOptions(beam=EVERYTHING), Rescoring(lm, 0.7, bonus))
        state = searched(search, encoded_BTD, lens_B)[0]
        totals = {
            pieces: score + 0.7 * total(lm, pieces) + nats * sum(piece % 2 for piece in pieces)
            for pieces, score in acoustic.items()
        }
        listed = search.nbest(state, final=True)
        assert {tuple(n.tokens): n.score for n in listed} == pytest.approx(totals, abs=1e-3)
        assert [n.score for n in listed] == sorted((n.score for n in listed), reverse=True)
        bests.append(tuple(search.best(state, final=True).tokens))
        assert totals[bests[-1]] == pytest.approx(max(totals.values()), abs=1e-3)
    assert len(set(bests)) > 1


def test_a_list_of_nothing_and_a_hypothesis_of_nothing(lm: TransformerLanguageModel) -> None:
    assert rescore([], lm, 0.5) == []
    silent = NBest(score=-1.0)
    assert rescore([silent], lm, 0.5)[0].score == pytest.approx(-1.0 + 0.5 * total(lm, ()))


def test_a_stream_without_a_frame_is_rescored_on_the_device_of_the_search(model: Model) -> None:
    """The first stream of a recognizer may end before it has heard anything."""
    asked = []

    class Scorer:
        def log_probs(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
            asked.append(tokens_BS.device.type)
            return torch.zeros(len(lens_B))

    search = RescoringSearch(BeamSearch(model.to("meta"), BeamOptions()), Rescoring(Scorer(), 0.5))
    assert search.best(search.initial_state(), final=True).tokens == []
    assert asked == ["meta"]
