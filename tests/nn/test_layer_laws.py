"""Each layer: block by block equals all blocks at once; what a frame sees is what its context says."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from kdasr.models.encoders.conformer import ConformerConfig, ConformerLayer
from kdasr.nn.attention import ChunkedSelfAttention
from kdasr.nn.blocks import main_frames, plan_blocks, to_blocks
from kdasr.nn.context import Context
from kdasr.nn.convolution import ChunkedConvolution
from kdasr.nn.streaming import split_state, stack_states

DIM, HEADS, KERNEL = 8, 2, 5
LIKE = torch.zeros(0, dtype=torch.float64)
CONTEXTS = [
    Context(4, 3, 0),
    Context(4, 3, 2),
    Context(0, 2, 0),
    Context(5, 2, 3),
    Context(9, 4, 1),
    Context(1, 1, 0),
]


class LayerCase(NamedTuple):
    layer: nn.Module
    init_state: Callable[[int, int], tuple]


def attention_case() -> LayerCase:
    layer = ChunkedSelfAttention(DIM, HEADS)
    return LayerCase(layer, lambda batch_size, left: layer.init_state(batch_size, left, LIKE))


def convolution_case() -> LayerCase:
    layer = ChunkedConvolution(DIM, KERNEL)
    return LayerCase(layer, lambda batch_size, left: layer.init_state(batch_size, LIKE))


def conformer_case() -> LayerCase:
    config = ConformerConfig(dim=DIM, num_heads=HEADS, ffn_dim=12, conv_kernel=KERNEL, dropout=0.0)
    layer = ConformerLayer(config)
    return LayerCase(layer, lambda batch_size, left: layer.init_state(batch_size, left, LIKE))


@pytest.fixture(params=[attention_case, convolution_case, conformer_case], ids=lambda make: make.__name__)
def case(request) -> LayerCase:
    torch.manual_seed(0)
    made = request.param()
    made.layer.double().eval()
    return made


def run_whole(case: LayerCase, x_BTD: Tensor, lens_B: Tensor, context: Context) -> Tensor:
    """All blocks in one call, from the zero state."""
    x_BNWD = to_blocks(x_BTD, context.chunk, context.right)
    plan = plan_blocks(x_BNWD, lens_B, torch.zeros_like(lens_B), context.left, context.chunk, DIM // HEADS)
    y_BNWD, _ = case.layer(x_BNWD, case.init_state(len(x_BTD), context.left), plan)
    return main_frames(y_BNWD, context.chunk)[:, : x_BTD.shape[1]]


def run_blocks(case: LayerCase, x_BTD: Tensor, lens_B: Tensor, context: Context, step: int = 1) -> Tensor:
    """`step` blocks per call."""
    blocks_BNWD = to_blocks(x_BTD, context.chunk, context.right)
    state, outputs = case.init_state(len(x_BTD), context.left), []
    for n in range(0, blocks_BNWD.shape[1], step):
        x_BNWD, seen = blocks_BNWD[:, n : n + step], n * context.chunk
        processed_B = torch.full_like(lens_B, seen)
        plan = plan_blocks(x_BNWD, lens_B - seen, processed_B, context.left, context.chunk, DIM // HEADS)
        y_BNWD, state = case.layer(x_BNWD, state, plan)
        outputs.append(main_frames(y_BNWD, context.chunk))
    return torch.cat(outputs, dim=1)[:, : x_BTD.shape[1]]


def assert_equal_frames(got_BTD: Tensor, expected_BTD: Tensor, lens_B: Tensor) -> None:
    for got_TD, expected_TD, length in zip(got_BTD, expected_BTD, lens_B.tolist(), strict=True):
        assert torch.allclose(got_TD[:length], expected_TD[:length], atol=1e-12, rtol=0)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("context", CONTEXTS, ids=str)
def test_block_by_block_equals_the_whole(case, context, step):
    x_BTD, lens_B = torch.randn(3, 17, DIM, dtype=torch.float64), torch.tensor([17, 10, 3])
    whole_BTD = run_whole(case, x_BTD, lens_B, context)
    assert_equal_frames(run_blocks(case, x_BTD, lens_B, context, step), whole_BTD, lens_B)


@pytest.mark.parametrize("context", CONTEXTS[:3], ids=str)
def test_padding_and_neighbors_do_not_matter(case, context):
    x_BTD, lens_B = torch.randn(3, 17, DIM, dtype=torch.float64), torch.tensor([17, 10, 3])
    whole_BTD = run_whole(case, x_BTD, lens_B, context)
    for b, length in enumerate(lens_B.tolist()):
        alone_BTD = run_whole(case, x_BTD[b : b + 1, :length], lens_B[b : b + 1], context)
        assert_equal_frames(alone_BTD, whole_BTD[b : b + 1], lens_B[b : b + 1])


def test_streams_of_different_ages_share_a_batch(case):
    context = Context(4, 3, 1)
    x_BTD = torch.randn(2, 12, DIM, dtype=torch.float64)
    blocks_BNWD = to_blocks(x_BTD, 3, 1)
    full_B = torch.tensor([12, 12])
    expected_BTD = run_whole(case, x_BTD, full_B, context)
    states = split_state(case.init_state(2, context.left))
    # The first stream is two blocks ahead of the second one.
    for n in range(2):
        plan = plan_blocks(blocks_BNWD[:1, n : n + 1], full_B[:1] - 3 * n, torch.tensor([3 * n]), 4, 3, 4)
        _, states[0] = case.layer(blocks_BNWD[:1, n : n + 1], states[0], plan)
    for n in range(2):
        x_BNWD = torch.stack([blocks_BNWD[0, n + 2], blocks_BNWD[1, n]])[:, None]
        processed_B = torch.tensor([3 * (n + 2), 3 * n])
        plan = plan_blocks(x_BNWD, full_B - processed_B, processed_B, 4, 3, 4)
        y_BNWD, state = case.layer(x_BNWD, stack_states(states), plan)
        states = split_state(state)
        assert torch.allclose(y_BNWD[0, 0, :3], expected_BTD[0, 3 * (n + 2) : 3 * (n + 3)], atol=1e-12)
        assert torch.allclose(y_BNWD[1, 0, :3], expected_BTD[1, 3 * n : 3 * (n + 1)], atol=1e-12)


def seen_by(case: LayerCase, context: Context, frame: int) -> list[int]:
    """Which of 17 input frames change the output at `frame`, by its gradient."""
    x_BTD = torch.randn(1, 17, DIM, dtype=torch.float64, requires_grad=True)
    y_BTD = run_whole(case, x_BTD, torch.tensor([17]), context)
    (grad_BTD,) = torch.autograd.grad((y_BTD[0, frame] * torch.arange(1.0, DIM + 1)).sum(), x_BTD)
    return grad_BTD[0].abs().sum(1).nonzero().flatten().tolist()


def test_attention_sees_its_left_context_its_chunk_and_its_lookahead():
    torch.manual_seed(0)
    case = attention_case()
    case.layer.double()
    assert seen_by(case, Context(4, 3, 0), frame=7) == list(range(2, 9))
    assert seen_by(case, Context(4, 3, 2), frame=7) == list(range(2, 11))
    assert seen_by(case, Context(0, 3, 0), frame=6) == [6, 7, 8]


def test_convolution_sees_half_a_kernel_back_and_its_block_ahead():
    torch.manual_seed(0)
    case = convolution_case()
    case.layer.double()
    assert seen_by(case, Context(0, 3, 0), frame=7) == [5, 6, 7, 8]
    assert seen_by(case, Context(0, 3, 1), frame=7) == [5, 6, 7, 8, 9]
    assert seen_by(case, Context(0, 3, 4), frame=7) == [5, 6, 7, 8, 9]
    assert seen_by(case, Context(0, 3, 0), frame=6) == [4, 5, 6, 7, 8]
