"""Shallow fusion with an exact bigram model, against enumeration of every alignment."""

from math import log
from typing import NamedTuple

import pytest
import torch
from decoding_helpers import Model, all_sequences, log_probs_after, make_encoded, make_model
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.decoding.beam import BeamOptions, BeamSearch, beam_search
from kdasr.decoding.biasing import BiasingGraph

# Shapes: N hypotheses, V pieces.

VOCAB = 5
EVERYTHING = VOCAB**5


class BigramState(NamedTuple):
    count_N: Tensor


class Bigram:
    """An exact model: the probability of a piece given the one before, from a table."""

    def __init__(self, vocab: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table_VV = (2 * torch.randn(vocab, vocab, generator=generator)).log_softmax(dim=1)
        self.fed: list[list[int]] = []

    def initial_state(self, batch_size: int) -> BigramState:
        return BigramState(torch.zeros(batch_size, dtype=torch.int64))

    def score(self, pieces_N: Tensor, state: BigramState) -> tuple[Tensor, BigramState]:
        # The table needs no state; counting what was fed checks that rows stay with their hypotheses.
        self.fed.append(pieces_N.tolist())
        noise_N1 = 1e-6 * state.count_N[:, None]
        return self.table_VV[pieces_N] - noise_N1, BigramState(state.count_N + 1)

    def total(self, pieces: tuple[int, ...], end: bool) -> float:
        steps = zip((1, *pieces), (*pieces, 1), strict=True)
        scores = [float(self.table_VV[before, after]) for before, after in steps]
        return sum(scores) if end else sum(scores[:-1])


@pytest.fixture
def model() -> Model:
    return make_model(vocab=VOCAB, sharpness=1.0)


@pytest.mark.parametrize("end", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_a_wide_beam_finds_what_enumeration_finds(model: Model, end: bool, late: bool) -> None:
    encoded_BTD, lens_B = make_encoded([5])
    lm, scale = Bigram(VOCAB), 0.7
    options = BeamOptions(beam=EVERYTHING, lm_scale=scale, lm_end=end, late_fusion=late)
    found = beam_search(model, encoded_BTD, lens_B, options, lm)[0]
    acoustic = all_sequences(model, encoded_BTD[0])
    expected = {pieces: score + scale * lm.total(pieces, end) for pieces, score in acoustic.items()}
    assert {tuple(n.tokens): n.score for n in found} == pytest.approx(expected, abs=1e-3)
    assert [n.fused for n in found] == pytest.approx(
        [scale * lm.total(tuple(n.tokens), end) for n in found], abs=1e-3
    )
    assert tuple(found[0].tokens) == max(expected, key=lambda pieces: expected[pieces] / (len(pieces) + 2))
    assert tuple(found[0].tokens) != max(acoustic, key=lambda pieces: acoustic[pieces] / (len(pieces) + 2))


def test_only_what_a_sentence_holds_is_fed(model: Model) -> None:
    lm = Bigram(VOCAB)
    encoded_BTD, lens_B = make_encoded([12, 7])
    beam_search(model, encoded_BTD, lens_B, BeamOptions(lm_scale=0.5), lm)
    assert lm.fed[:2] == [[1], [1]]  # <sos/eos> begins each utterance
    assert len(lm.fed) > 5 and not {0, 2} & {piece for fed in lm.fed for piece in fed}


def test_a_language_model_without_a_weight_is_not_silently_left_out(model: Model) -> None:
    with pytest.raises(UserError, match=r"lm_scale 0\.0: shallow fusion needs an lm_scale"):
        BeamSearch(model, BeamOptions(), Bigram(VOCAB))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"lm_scale 0\.3: shallow fusion needs a language model"):
        BeamSearch(model, BeamOptions(lm_scale=0.3))  # type: ignore[arg-type]


def test_impossible_pieces_are_never_found(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([6])
    lm = Bigram(VOCAB)
    lm.table_VV[:, 3] = -torch.inf
    for late in (False, True):
        options = BeamOptions(beam=50, lm_scale=0.5, late_fusion=late)
        found = beam_search(model, encoded_BTD, lens_B, options, lm)[0]
        assert len(found) > 5 and not any(3 in n.tokens for n in found)
        assert all(n.score > -torch.inf for n in found)


def test_late_fusion_chooses_among_what_the_model_kept(model: Model) -> None:
    """A piece that the language model alone wants enters the beam early, and never late."""
    encoded_BTD, lens_B = make_encoded([1])
    # Blank owes the language model nothing; without the penalty it would win.
    plain = BeamOptions(beam=VOCAB, length_norm=False, blank_penalty=50.0)
    last = [n.tokens for n in beam_search(model, encoded_BTD, lens_B, plain)[0] if n.tokens][-1]
    lm = Bigram(VOCAB)
    lm.table_VV[1] = log(1e-3)
    lm.table_VV[1, last[0]] = 0.0
    for late in (False, True):
        options = BeamOptions(beam=1, blank_penalty=50.0, lm_scale=3.0, lm_end=False, late_fusion=late)
        found = beam_search(model, encoded_BTD, lens_B, options, lm)[0]
        assert (found[0].tokens == last) is not late


@pytest.mark.parametrize("late", [True, False])
def test_the_models_own_share_is_told_apart(model: Model, late: bool) -> None:
    encoded_BTD, lens_B = make_encoded([8])
    options = BeamOptions(beam=8, lm_scale=0.3, late_fusion=late)
    graph = BiasingGraph([((3,), 2.0), ((4, 1), 1.0)])
    listed = beam_search(model, encoded_BTD, lens_B, options, Bigram(VOCAB, seed=3), [graph])[0]
    assert sum(len(found.tokens) for found in listed) > 2
    for found in listed:
        for place, (piece, frame) in enumerate(zip(found.tokens, found.frames, strict=True)):
            given = log_probs_after(model, encoded_BTD[0, frame], tuple(found.tokens[:place]))[piece]
            assert found.log_probs[place] == pytest.approx(given, abs=1e-4)


@pytest.mark.parametrize("biased", [False, True])
def test_batched_and_resumed_equal_one_utterance_at_a_time(model: Model, biased: bool) -> None:
    encoded_BTD, lens_B = make_encoded([11, 4, 0, 17], seed=3)
    graphs = [BiasingGraph([((3, 4), 0.5)]) if biased and row % 2 else None for row in range(4)]
    lm, options = Bigram(VOCAB, seed=2), BeamOptions(beam=3, lm_scale=0.8)
    alone = [
        beam_search(model, encoded_BTD[row : row + 1, :length], lens_B[row : row + 1], options, lm, [graph])[
            0
        ]
        for row, (length, graph) in enumerate(zip(lens_B.tolist(), graphs, strict=True))
    ]
    batched = beam_search(model, encoded_BTD, lens_B, options, lm, graphs)
    search = BeamSearch(model, options, lm)
    states = [search.initial_state(graph) for graph in graphs]
    for start in range(0, 17, 3):
        chunk_lens = (lens_B - start).clamp(0, 3)
        states = search.advance(encoded_BTD[:, start : start + 3], chunk_lens, states)
    resumed = [search.nbest(state, final=True) for state in states]
    for one, other, third in zip(alone, batched, resumed, strict=True):
        assert [n.tokens for n in one] == [n.tokens for n in other] == [n.tokens for n in third]
        assert [n.score for n in one] == pytest.approx([n.score for n in other], abs=1e-4)
        assert [n.score for n in one] == pytest.approx([n.score for n in third], abs=1e-4)
