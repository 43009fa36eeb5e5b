"""The language model: piece by piece equals whole, padding is nothing, probabilities add up."""

from dataclasses import replace
from itertools import product
from math import log

import pytest
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel
from kdasr.nn.streaming import select_states, stack_states

# Shapes: B sentences, S pieces, N hypotheses, V pieces.

VOCAB = 11
CONFIG = LanguageModelConfig(
    vocab_size=VOCAB, num_layers=2, dim=16, num_heads=2, ffn_dim=32, dropout=0.0, context=6
)
ALLOWED = [1, *range(3, VOCAB)]


def make_model(**changes: object) -> TransformerLanguageModel:
    """A random model with strong opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = TransformerLanguageModel(replace(CONFIG, **changes)).eval()
        with torch.no_grad():
            model.embedding.weight.mul_(50)
            model.output_bias_V.normal_()
    return model.requires_grad_(False)


def make_sentences(lens: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random sentences, with pieces in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (len(lens), max(lens)), generator=generator), torch.tensor(lens)


def piece_by_piece(model: TransformerLanguageModel, sentence: list[int]) -> list[float]:
    state, found = model.initial_state(1), []
    for fed, next_piece in zip([1, *sentence], [*sentence, 1], strict=True):
        log_probs_NV, state = model.score(torch.tensor([fed]), state)
        found.append(float(log_probs_NV[0, next_piece]))
    return found


@pytest.mark.parametrize("context", [1, 2, 6, 40])
def test_piece_by_piece_equals_whole_sentences_of_any_length(context: int) -> None:
    """Sentences shorter than the window, as long as it, and several times longer."""
    model = make_model(context=context)
    tokens_BS, lens_B = make_sentences([0, 4, 5, 6, 7, 23])
    whole_BT = model(tokens_BS, lens_B)
    for row, length in enumerate(lens_B.tolist()):
        steps = piece_by_piece(model, tokens_BS[row, :length].tolist())
        assert whole_BT[row, : length + 1].tolist() == pytest.approx(steps, abs=1e-5)
        assert not whole_BT[row, length + 1 :].any()


def test_the_window_forgets_what_is_older_than_all_layers_reach() -> None:
    model = make_model()  # two layers of a window of six places: eleven places in all
    tokens_BS, lens_B = make_sentences([30, 30])
    tokens_BS[1] = tokens_BS[0]
    tokens_BS[1, 3] = (tokens_BS[0, 3] - 2) % (VOCAB - 3) + 3
    changed = (model(tokens_BS, lens_B).diff(dim=0)[0].abs() > 1e-4).nonzero().flatten().tolist()
    # Piece 3 is what prediction 3 asks for, and input number 4 (after the start): seen by 4 to 14.
    assert changed[0] == 3 and changed[-1] in range(11, 15)


def test_hypotheses_of_different_ages_share_a_batch() -> None:
    model = make_model()
    tokens_BS, _ = make_sentences([12, 12, 12])
    states = []
    for row, age in enumerate((1, 5, 11)):
        state = model.initial_state(1)
        for piece in [1, *tokens_BS[row, : age - 1].tolist()]:
            _, state = model.score(torch.tensor([piece]), state)
        states.append(state)
    order = torch.tensor([2, 0, 0, 1])
    pieces_N = torch.tensor([3, 4, 5, 6])
    batched_NV, _ = model.score(pieces_N, select_states(stack_states(states), order))
    for place, (row, piece) in enumerate(zip(order.tolist(), pieces_N.tolist(), strict=True)):
        alone_NV, _ = model.score(torch.tensor([piece]), states[row])
        torch.testing.assert_close(batched_NV[place], alone_NV[0], atol=1e-5, rtol=0)


def test_states_are_of_one_size_and_never_changed() -> None:
    model = make_model()
    first = model.initial_state(2)
    before = [tensor.clone() for layer in first.layers for tensor in layer]
    state = first
    for _ in range(9):
        _, state = model.score(torch.tensor([1, 4]), state)
        assert [t.shape for layer in state.layers for t in layer] == [t.shape for t in before]
    assert all(
        torch.equal(a, b) for a, b in zip(before, (t for layer in first.layers for t in layer), strict=True)
    )


def test_padding_is_ignored() -> None:
    model = make_model()
    tokens_BS, lens_B = make_sentences([3, 9, 0])
    other_BS, _ = make_sentences([3, 9, 0], seed=1)
    padding_BS = torch.arange(9) >= lens_B[:, None]
    mixed_BS = torch.where(padding_BS, other_BS, tokens_BS)
    assert not torch.equal(mixed_BS, tokens_BS)
    torch.testing.assert_close(model.log_probs(tokens_BS, lens_B), model.log_probs(mixed_BS, lens_B))
    alone = model.log_probs(tokens_BS[:1, :3], lens_B[:1])
    torch.testing.assert_close(model.log_probs(tokens_BS, lens_B)[:1], alone)


def test_sentences_of_all_lengths_together_have_probability_one() -> None:
    """All sentences of up to two pieces, and all beginnings of three pieces, are all there is."""
    model = make_model()
    pieces = ALLOWED[1:]
    total = 0.0
    for length in range(3):
        rows = torch.tensor(list(product(pieces, repeat=length)), dtype=torch.int64)
        total += float(model.log_probs(rows, torch.full((len(rows),), length)).exp().sum())
    rows = torch.tensor(list(product(pieces, repeat=3)))
    total += float(model(rows, torch.full((len(rows),), 3))[:, :3].sum(dim=1).exp().sum())
    assert total == pytest.approx(1.0, abs=1e-4)


def test_blank_and_unknown_have_no_probability() -> None:
    model = make_model()
    log_probs_NV, _ = model.score(torch.tensor([1]), model.initial_state(1))
    assert log_probs_NV[0, [0, 2]].tolist() == [-torch.inf] * 2
    assert float(log_probs_NV[0, ALLOWED].exp().sum()) == pytest.approx(1.0)
    assert model.log_probs(torch.tensor([[4, 2, 5]]), torch.tensor([3])).tolist() == [-torch.inf]


def test_a_model_without_opinions_is_uniform_over_what_is_allowed() -> None:
    model = make_model()
    model.embedding.weight.zero_(), model.output_bias_V.zero_()
    tokens_BS, lens_B = make_sentences([5])
    assert float(model.log_probs(tokens_BS, lens_B)) == pytest.approx(-6 * log(VOCAB - 2))


def test_gradients_are_finite_and_padding_has_none() -> None:
    model = make_model().requires_grad_(True)
    tokens_BS, lens_B = make_sentences([2, 7])
    tokens_BS[0, 2:], tokens_BS[1] = 10, 5
    tokens_BS[0, :2] = 4
    model.log_probs(tokens_BS, lens_B).sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    assert float(model.output_bias_V.grad[[0, 2]].abs().max()) == 0.0


@pytest.mark.parametrize(
    ("name", "value"), [("dim", 18), ("vocab_size", 3), ("context", 0), ("dropout", 1.0), ("num_layers", 0)]
)
def test_impossible_sizes_are_named(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"model\.{name}'? is {value}"):
        TransformerLanguageModel(replace(CONFIG, **{name: value}))
