"""Predictor and joiner: stepwise equals the whole; the start context; broadcasting."""

import pytest
import torch

from kdasr.common.special_pieces import NO_PIECE
from kdasr.models.joiner import Joiner
from kdasr.models.predictors.base import LastPieces
from kdasr.models.predictors.lstm import LstmConfig
from kdasr.models.predictors.stateless import StatelessConfig, StatelessPredictor
from kdasr.nn.streaming import select_states, split_state, stack_states


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_stepwise_equals_the_whole(context_size):
    torch.manual_seed(0)
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=context_size).double()
    tokens_BS = torch.randint(0, 9, (3, 5))
    whole_BSD = predictor(tokens_BS)
    assert whole_BSD.shape == (3, 6, 6)
    state = predictor.start_state(3)
    for s in range(6):
        assert torch.allclose(predictor.predict(state), whole_BSD[:, s], atol=1e-12)
        if s < 5:
            state = predictor.advance(state, tokens_BS[:, s])


def test_start_context_is_nothing_and_a_blank():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=3)
    assert predictor.start_state(2).pieces_BK.tolist() == [[-1, -1, 0]] * 2
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=1)
    assert predictor.start_state(1).pieces_BK.tolist() == [[0]]


def test_nothing_embeds_to_zero_and_blank_does_not():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=2)
    after_nothing, after_blank = predictor.predict(LastPieces(torch.tensor([[-1, 4], [0, 4]])))
    zeros_D = torch.zeros(6)
    expected_D = torch.relu(predictor.combine(torch.cat([zeros_D, predictor.embedding.weight[4]])))
    assert torch.allclose(after_nothing, expected_D, atol=1e-6)
    assert not torch.allclose(after_nothing, after_blank, atol=1e-4)


def test_only_the_last_pieces_count():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=2)
    first_SD, second_SD = predictor(torch.tensor([[1, 2, 3, 4], [5, 2, 3, 4]]))
    changed = (first_SD != second_SD).any(dim=1).tolist()
    assert changed == [False, True, True, False, False]


def test_no_pieces_predict_the_start():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=2)
    empty_BSD = predictor(torch.zeros(2, 0, dtype=torch.int64))
    assert torch.equal(empty_BSD[:, 0], predictor.predict(predictor.start_state(2)))


def test_joiner_is_tanh_of_the_sum_then_linear():
    torch.manual_seed(0)
    joiner = Joiner(encoder_dim=5, predictor_dim=4, joiner_dim=6, vocab_size=7).double()
    encoded = joiner.project_encoder(torch.randn(2, 3, 5, dtype=torch.float64))
    predicted = joiner.project_predictor(torch.randn(2, 4, 4, dtype=torch.float64))
    lattice = joiner(encoded[:, :, None], predicted[:, None])
    assert lattice.shape == (2, 3, 4, 7)
    one_D = torch.tanh(encoded[1, 2] + predicted[1, 3])
    assert torch.allclose(lattice[1, 2, 3], joiner.output.weight @ one_D + joiner.output.bias, atol=1e-12)
    assert torch.allclose(joiner(encoded[1, 2], predicted[1, 3]), lattice[1, 2, 3], atol=1e-12)


def test_context_noise_replaces_its_share_of_pieces_in_training_only() -> None:
    torch.manual_seed(0)
    predictor = StatelessPredictor(50, 8, 2, context_noise=0.25)
    tokens = torch.randint(1, 50, (40, 100))
    predictor.eval()
    clean = predictor(tokens)
    noiseless = StatelessPredictor(50, 8, 2)
    noiseless.load_state_dict(predictor.state_dict())
    torch.testing.assert_close(clean, noiseless.train()(tokens))
    predictor.train()
    same = (predictor(tokens) == clean).all(dim=-1)
    assert same[:, 0].all(), "the start context is never replaced"
    # An output is unchanged when neither of its two pieces is replaced by another one.
    unchanged = (1 - 0.25 * 48 / 49) ** 2
    assert abs(same[:, 2:].float().mean().item() - unchanged) < 0.03


@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_lstm_is_that_of_torch_after_an_embedding_of_zero(num_layers):
    torch.manual_seed(0)
    predictor = LstmConfig(dim=6, num_layers=num_layers, dropout=0.0).build(9).double()
    tokens_BS = torch.randint(1, 9, (3, 5))
    lstm = torch.nn.LSTM(6, 6, num_layers, batch_first=True).double()
    lstm.load_state_dict(predictor.lstm.state_dict())
    embedded_BSD = torch.nn.functional.embedding(tokens_BS, predictor.embedding.weight)
    start_B1D = torch.zeros(3, 1, 6, dtype=torch.float64)
    expected_BSD, _ = lstm(torch.cat([start_B1D, embedded_BSD], dim=1))
    torch.testing.assert_close(predictor(tokens_BS), expected_BSD)
    assert predictor(tokens_BS[:, :0]).shape == (3, 1, 6)


@pytest.mark.parametrize("build", [LstmConfig(dim=6, num_layers=2).build, StatelessConfig(dim=6).build])
def test_any_predictor_goes_piece_by_piece_as_over_the_whole(build):
    torch.manual_seed(0)
    predictor = build(9).double().eval()
    tokens_BS = torch.randint(1, 9, (4, 6))
    whole_BSD = predictor(tokens_BS)
    state = predictor.start_state(4)
    for s in range(7):
        torch.testing.assert_close(predictor.predict(state), whole_BSD[:, s])
        if s < 6:
            kept = [part.clone() for part in state]
            later = predictor.advance(state, tokens_BS[:, s])
            assert all(torch.equal(part, copy) for part, copy in zip(state, kept, strict=True))
            # Taken apart, and put together in another order.
            order = torch.randperm(4)
            mixed = stack_states([split_state(later)[row] for row in order])
            state = select_states(mixed, torch.argsort(order))


@pytest.mark.parametrize("build", [LstmConfig(dim=6, num_layers=2).build, StatelessConfig(dim=6).build])
def test_a_history_is_what_was_said_before(build):
    torch.manual_seed(0)
    predictor = build(9).double().eval()
    before_BH, after_BS = torch.randint(1, 9, (2, 3)), torch.randint(1, 9, (2, 4))
    whole_BSD = predictor(torch.cat([before_BH, after_BS], dim=1))
    start_BH = torch.tensor([[NO_PIECE, NO_PIECE, 0]]).repeat(2, 1)
    found_BSD = predictor(after_BS, torch.cat([start_BH, before_BH], dim=1))
    torch.testing.assert_close(found_BSD, whole_BSD[:, 3:])
    torch.testing.assert_close(predictor(after_BS, start_BH), predictor(after_BS))


def test_an_lstm_drops_out_in_training_only():
    torch.manual_seed(0)
    predictor = LstmConfig(dim=50, dropout=0.5).build(9)
    tokens_BS = torch.randint(1, 9, (20, 10))
    dropped = (predictor(tokens_BS) == 0).float().mean()
    assert abs(float(dropped) - 0.5) < 0.05
    assert (predictor.eval()(tokens_BS) != 0).all()
