"""The modules that are exported compute what the model computes, and keep the promises of the contract."""

import pytest
import torch
from export_helpers import emitting_model
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.export.graph import EncoderGraph, JoinerGraph, PredictorGraph
from kdasr.models.predictors.base import LastPieces
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.streaming import split_state, stack_states
from kdasr.testing import tiny_config

CONTEXTS = [
    Context(left=8, chunk=4),
    Context(left=7, chunk=4, right=2),
    Context(left=3, chunk=8),
    Context(left=0, chunk=2, right=1),
    Context(left=9, chunk=1),
]


@pytest.fixture(scope="module")
def model() -> Transducer:
    return emitting_model(24, num_heads=4).double()


def windows(graph: EncoderGraph, num_streams: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_streams, graph.window_features, 80)
    return 4 * torch.randn(shape, generator=generator, dtype=torch.float64) - 6


def double_states(graph: EncoderGraph, num_streams: int) -> tuple[Tensor, Tensor]:
    attention, convolution = graph.zero_states(num_streams)
    return attention.double(), convolution.double()


@pytest.mark.parametrize("context", CONTEXTS, ids=str)
@torch.no_grad()
def test_chunks_of_streams_of_different_ages_equal_the_model(model: Transducer, context: Context) -> None:
    graph = EncoderGraph(model, context).double()
    states = split_state(model.encoder.init_state(3, context))
    attention, convolution = double_states(graph, 3)
    ages = torch.zeros(3, dtype=torch.int64)
    for turn in range(14):
        # Stream i skips the first 2 i turns: one batch has new streams, young ones and old ones.
        active = torch.tensor([index for index in range(3) if turn >= 2 * index])
        x_NTF = windows(graph, len(active), seed=turn)
        expected, _, state = model.encode_chunk(x_NTF, stack_states([states[i] for i in active]), context)
        for index, new in zip(active.tolist(), split_state(state), strict=True):
            states[index] = new
        encoded, attention[:, :, active], convolution[:, :, active] = graph(
            x_NTF, attention[:, :, active], convolution[:, :, active], 4 * ages[active]
        )
        ages[active] += context.chunk
        assert encoded.shape == (len(active), context.chunk, 16)
        assert torch.allclose(encoded, model.joiner.project_encoder(expected), atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_a_stream_whose_client_counts_from_zero_again_goes_on(model: Transducer, context: Context) -> None:
    """The client does so after an endpoint, and keeps the states."""
    graph = EncoderGraph(model, context).double()
    states = {"counting on": double_states(graph, 2), "from zero": double_states(graph, 2)}
    for turn in range(6):
        counts = {"counting on": 4 * context.chunk * turn, "from zero": 4 * context.chunk * (turn % 3)}
        encoded = {}
        for name, state in states.items():
            count_N = torch.full((2,), counts[name])
            encoded[name], *states[name] = graph(windows(graph, 2, seed=turn), *state, count_N)
        assert torch.equal(*encoded.values())


@pytest.mark.parametrize("hours", [0, 46, 47, 1000])
def test_a_count_outlives_days(model: Transducer, hours: int) -> None:
    """In 32-bit numbers, of which one alone would stand still after 46.6 hours."""
    graph = EncoderGraph(model, CONTEXTS[0])
    attention, _ = graph.zero_states(3)
    count_N = 360000 * hours + torch.tensor([0, 1, 2**20 - 1])
    row = graph._pack_count(count_N, attention)
    assert torch.equal(graph._unpack_count(torch.cat([attention[:, :-1], row], dim=1)), count_N)


def test_the_metadata_describe_the_state_tensors(model: Transducer) -> None:
    context = Context(left=7, chunk=4, right=2)
    graph = EncoderGraph(model, context)
    facts = graph.metadata
    layers, dim = facts["num_encoder_layers"], facts["encoder_dim"]
    attention, convolution = graph.zero_states(5)
    assert attention.shape == (layers, facts["left_context"], 5, dim)
    assert convolution.shape == (layers, int(facts["cnn_module_kernel"]) - 1, 5, dim)
    assert (facts["T"], facts["decode_chunk_len"], facts["pad_length"]) == (27, 16, 11)
    assert facts["model_type"] == "conformer"


@torch.no_grad()
def test_predictor_and_joiner_equal_the_model(model: Transducer) -> None:
    predictor, joiner = PredictorGraph(model).double(), JoinerGraph(model).double()
    context_NS = torch.tensor([[-1, 0], [0, 5], [23, 23], [7, 1]])
    predicted_NJ = model.joiner.project_predictor(model.predictor.predict(LastPieces(context_NS)))
    assert torch.allclose(predictor(context_NS), predicted_NJ, atol=1e-12, rtol=0)
    assert predictor.metadata == {"context_size": 2, "vocab_size": 24}
    encoded_NJ = torch.randn(4, 16, dtype=torch.float64)
    logits_NV = model.joiner(encoded_NJ, predicted_NJ)
    assert torch.allclose(joiner(encoded_NJ, predicted_NJ), logits_NV, atol=1e-12, rtol=0)


def test_a_kernel_without_left_frames_is_refused() -> None:
    config = tiny_config()
    config.encoder.conv_kernel = 1
    with pytest.raises(UserError, match="conv_kernel is 1"):
        EncoderGraph(build_transducer(config), Context(left=4, chunk=2))
