"""Greedy search against a plain loop, batched against single, resumed against whole."""

import pytest
import torch
from decoding_helpers import KINDS, Model, make_encoded, make_model, predicted_after
from torch import Tensor

from kdasr.decoding import greedy
from kdasr.decoding.greedy import UNK_ID, greedy_chunk, greedy_search, initial_state

# Shapes: B utterances, T frames, D = J = width, K = 2 pieces, V pieces.


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> Model:
    return make_model(kind=request.param)


@torch.no_grad()
def _plain_loop(model: Model, encoded_TD: Tensor, max_symbols: int) -> tuple[list[int], list[int]]:
    tokens: list[int] = []
    frames: list[int] = []
    for frame, encoded_D in enumerate(encoded_TD):
        for _ in range(max_symbols):
            predicted_J = model.joiner.project_predictor(predicted_after(model, tuple(tokens)))
            logits = model.joiner(model.joiner.project_encoder(encoded_D), predicted_J)
            best = int(logits.argmax())
            if best in (0, UNK_ID):
                break
            tokens.append(best)
            frames.append(frame)
    return tokens, frames


@pytest.mark.parametrize("max_symbols", [1, 3])
def test_batched_search_equals_a_plain_loop(model: Model, max_symbols: int) -> None:
    encoded_BTD, lens_B = make_encoded([17, 5, 0, 30])
    found = greedy_search(model, encoded_BTD, lens_B, max_symbols)
    for row, length in enumerate(lens_B.tolist()):
        expected = _plain_loop(model, encoded_BTD[row, :length], max_symbols)
        assert (found[row].tokens, found[row].frames) == expected
    assert 0 < len(found[3].tokens) < 30 * max_symbols
    assert not any(UNK_ID in hypothesis.tokens for hypothesis in found)


@pytest.mark.parametrize("max_symbols", [1, 2, 3])
@pytest.mark.parametrize("lookahead", [1, 2, 3, 100])
def test_looking_ahead_changes_nothing(
    model: Model, monkeypatch: pytest.MonkeyPatch, lookahead: int, max_symbols: int
) -> None:
    encoded_BTD, lens_B = make_encoded([61, 60])
    expected = greedy_search(model, encoded_BTD, lens_B, max_symbols)
    monkeypatch.setattr(greedy, "LOOKAHEAD", lookahead)
    assert greedy_search(model, encoded_BTD, lens_B, max_symbols) == expected


def test_padding_does_not_change_the_result(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([9, 14])
    other = encoded_BTD.clone()
    other[0, 9:] = 50.0
    assert greedy_search(model, encoded_BTD, lens_B) == greedy_search(model, other, lens_B)


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 0, 7, 10]])
@pytest.mark.parametrize("max_symbols", [1, 2])
def test_resumed_search_equals_whole_search(model: Model, sizes: list[int], max_symbols: int) -> None:
    encoded_BTD, lens_B = make_encoded([20, 13])
    whole = greedy_search(model, encoded_BTD, lens_B, max_symbols)
    state, start = initial_state(model, 2), 0
    tokens: list[list[int]] = [[], []]
    frames: list[list[int]] = [[], []]
    for size in sizes:
        chunk_lens = (lens_B - start).clamp(0, size)
        found, state = greedy_chunk(
            model, encoded_BTD[:, start : start + size], chunk_lens, state, max_symbols
        )
        for row, hypothesis in enumerate(found):
            tokens[row] += hypothesis.tokens
            frames[row] += [start + frame for frame in hypothesis.frames]
        start += size
    assert tokens == [hypothesis.tokens for hypothesis in whole]
    assert frames == [hypothesis.frames for hypothesis in whole]


def test_a_state_is_not_changed_by_the_search(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([12])
    state = initial_state(model, 1)
    kept = [part.clone() for part in (*state.heard, state.predicted_BJ)]
    first = greedy_chunk(model, encoded_BTD, lens_B, state)[0]
    assert all(map(torch.equal, (*state.heard, state.predicted_BJ), kept))
    assert greedy_chunk(model, encoded_BTD, lens_B, state)[0] == first


def test_a_blank_penalty_counts_against_the_blank(model: Model) -> None:
    encoded_BTD, lens_B = make_encoded([30])
    state, unpenalized = initial_state(model, 1), greedy_search(model, encoded_BTD, lens_B)
    found = greedy_chunk(model, encoded_BTD, lens_B, state, blank_penalty=3.0)[0]
    with torch.no_grad():
        model.joiner.output.bias[0] -= 3.0
    assert found == greedy_search(model, encoded_BTD, lens_B)
    assert found != unpenalized
