"""Predictor and joiner: stepwise equals the whole; the start context; broadcasting."""

import pytest
import torch

from kdasr.models.joiner import Joiner
from kdasr.models.predictor import StatelessPredictor


@pytest.mark.parametrize("context_size", [1, 2, 3])
def test_stepwise_equals_the_whole(context_size):
    torch.manual_seed(0)
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=context_size).double()
    tokens_BS = torch.randint(0, 9, (3, 5))
    whole_BSD = predictor(tokens_BS)
    assert whole_BSD.shape == (3, 6, 6)
    context_BK = predictor.start_context(3)
    for s in range(6):
        assert torch.allclose(predictor.step(context_BK), whole_BSD[:, s], atol=1e-12)
        if s < 5:
            context_BK = torch.cat([context_BK[:, 1:], tokens_BS[:, s : s + 1]], dim=1)


def test_start_context_is_nothing_and_a_blank():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=3)
    assert predictor.start_context(2).tolist() == [[-1, -1, 0]] * 2
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=1)
    assert predictor.start_context(1).tolist() == [[0]]


def test_nothing_embeds_to_zero_and_blank_does_not():
    predictor = StatelessPredictor(vocab_size=9, dim=6, context_size=2)
    after_nothing, after_blank = predictor.step(torch.tensor([[-1, 4], [0, 4]]))
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
    assert torch.equal(empty_BSD[:, 0], predictor.step(predictor.start_context(2)))


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
