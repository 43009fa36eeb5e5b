"""A predictor in one file: the law of predictors, its name in a configuration, searches, training."""

import pytest
import torch
from gru_predictor import GruConfig

from kdasr.common.configio import build_config, config_to_dict
from kdasr.common.special_pieces import NO_PIECE
from kdasr.decoding.beam import BeamOptions, BeamSearch
from kdasr.decoding.greedy import greedy_search
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_config


@pytest.fixture
def model() -> Transducer:
    config = build_config(
        TransducerConfig, config_to_dict(tiny_config()), {"predictor": {"type": "toy-gru", "width": 16}}
    )
    assert config.predictor == GruConfig(width=16)
    torch.manual_seed(0)
    model = build_transducer(config).eval()
    with torch.no_grad():
        model.joiner.output.weight.mul_(8.0)
    return model


def test_it_goes_piece_by_piece_as_over_the_whole(model: Transducer) -> None:
    tokens_BS = torch.randint(1, 11, (3, 5))
    whole_BSD, state = model.predictor(tokens_BS), model.predictor.start_state(3)
    history_BH = torch.cat([torch.tensor([[NO_PIECE, 0]] * 3), tokens_BS[:, :2]], dim=1)
    torch.testing.assert_close(model.predictor(tokens_BS[:, 2:], history_BH), whole_BSD[:, 2:])
    for place in range(6):
        torch.testing.assert_close(model.predictor.predict(state), whole_BSD[:, place])
        if place < 5:
            state = model.predictor.advance(state, tokens_BS[:, place])


def test_searches_carry_its_state(model: Transducer) -> None:
    batch = dummy_batch()
    encoded = model.encode(batch.features_BTF, batch.feature_lens_B, Context.full())
    greedy = greedy_search(model, encoded.encoded_BTD, encoded.lens_B)
    search = BeamSearch(model, BeamOptions(beam=1))
    states = [search.initial_state() for _ in greedy]
    for start in range(0, encoded.encoded_BTD.shape[1], 3):
        lens_B = (encoded.lens_B - start).clamp(0, 3)
        states = search.advance(encoded.encoded_BTD[:, start : start + 3], lens_B, states)
    assert [search.best(state).tokens for state in states] == [found.tokens for found in greedy]
    assert sum(len(found.tokens) for found in greedy) > 5


def test_it_is_trained_with_the_model(model: Transducer) -> None:
    batch = dummy_batch()
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context.full())
    assert output.predicted_BSD.shape == (3, batch.tokens_BS.shape[1] + 1, 16)
    model.joiner.project_predictor(output.predicted_BSD).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.predictor.parameters())
