"""The laws of encoders, of Zipformer2: chunk by chunk equals the whole, and no utterance sees another one."""

# Shapes: B utterances, T feature frames, F features, W of a window, U encoded frames, C of a chunk, D width.

import re

import pytest
import torch
from torch import Tensor

from icefall_data import Recorder
from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder
from kdasr.nn.context import Context
from kdasr.nn.streaming import split_state, stack_states
from zipformer2_models import small_config, small_encoder

LENGTHS = (110, 89, 60, 33, 14)


@pytest.fixture(scope="module")
def encoder() -> Zipformer2Encoder:
    return small_encoder()


@pytest.fixture(scope="module")
def utterances() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [2 * torch.randn(length, 80, generator=generator, dtype=torch.float64) - 6 for length in LENGTHS]


def in_a_batch(utterances: list[Tensor], more: int = 0) -> tuple[Tensor, Tensor]:
    """Padded with loud noise."""
    lens_B = torch.tensor([len(features_TF) for features_TF in utterances])
    features_BTF = 3 * torch.randn(len(lens_B), int(lens_B.max()) + more, 80, dtype=torch.float64)
    for row_TF, features_TF in zip(features_BTF, utterances, strict=True):
        row_TF[: len(features_TF)] = features_TF
    return features_BTF, lens_B


def windows(features_TF: Tensor, context: Context) -> list[tuple[Tensor, int]]:
    """The windows (W, F) of a stream, and how many of their frames are valid."""
    size, parts = 4 * context.window_frames + 13, []
    for begin in range(0, (len(features_TF) - 13) // 4 * 4, 4 * context.chunk):
        part_XF = features_TF[begin : begin + size]
        noise_YF = torch.randn(size - len(part_XF), 80, dtype=torch.float64)
        parts.append((torch.cat([part_XF, noise_YF]), len(part_XF)))
    return parts


@torch.no_grad()
def streamed(encoder: Zipformer2Encoder, utterances: list[Tensor], context: Context) -> list[Tensor]:
    """Encoded (U, D) as streams that begin one after another and share batches."""
    pending = [windows(features_TF, context) for features_TF in utterances]
    states = split_state(encoder.init_state(len(utterances), context))
    outputs: list[list[Tensor]] = [[] for _ in utterances]
    for turn in range(max(start + len(parts) for start, parts in enumerate(pending))):
        active = [row for row, parts in enumerate(pending) if 0 <= turn - row < len(parts)]
        if not active:
            continue
        chosen = [pending[row][turn - row] for row in active]
        found = encoder.step(
            torch.stack([window_WF for window_WF, _ in chosen]),
            stack_states([states[row] for row in active]),
            context,
            torch.tensor([valid for _, valid in chosen]),
        )
        for place, (row, state) in enumerate(zip(active, split_state(found.state), strict=True)):
            states[row] = state
            outputs[row].append(found.encoded_BCD[place, : int(found.lens_B[place])])
    return [torch.cat(parts) if parts else torch.zeros(0, 12) for parts in outputs]


@pytest.mark.parametrize(
    ("left", "chunk", "right"),
    [
        *((0, 2, 0), (2, 2, 0), (8, 2, 0), (6, 4, 0), (8, 8, 0), (60, 6, 0), (4, 40, 0)),
        *((0, 2, 2), (4, 2, 6), (6, 4, 2), (2, 8, 4), (60, 6, 8), (4, 40, 4), (4, 2, 60)),
    ],
)
def test_chunk_by_chunk_equals_the_whole(
    encoder: Zipformer2Encoder, utterances: list[Tensor], left: int, chunk: int, right: int
) -> None:
    """With streams of all ages in a batch, last windows that are not full, and noise behind them."""
    context = Context(left, chunk, right)
    with torch.no_grad():
        whole = encoder(*in_a_batch(utterances), context)
    for features_TF, encoded_UD, found_UD in zip(
        utterances, whole.encoded_BTD, streamed(encoder, utterances, context), strict=True
    ):
        assert len(found_UD) == encoder.geometry.streamed_frames(len(features_TF))
        torch.testing.assert_close(found_UD, encoded_UD[: len(found_UD)].to(found_UD), atol=1e-11, rtol=0)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("context", [Context.full(), Context(4, 2)], ids=str)
def test_neither_padding_nor_neighbors_change_a_frame(
    utterances: list[Tensor], causal: bool, context: Context
) -> None:
    if not causal and not context.is_full:
        return
    encoder = small_encoder(causal=causal)
    with torch.no_grad():
        together = encoder(*in_a_batch(utterances, more=37), context)
        for row, features_TF in enumerate(utterances):
            alone = encoder(features_TF[None], torch.tensor([len(features_TF)]), context)
            length = int(alone.lens_B[0])
            assert length == int(together.lens_B[row]) == (len(features_TF) - 5) // 4
            torch.testing.assert_close(
                together.encoded_BTD[row, :length], alone.encoded_BTD[0], atol=1e-11, rtol=0
            )


def test_hidden_layers_have_the_width_and_rate_of_their_stacks(
    encoder: Zipformer2Encoder, utterances: list[Tensor]
) -> None:
    with torch.no_grad():
        found = encoder(*in_a_batch(utterances), Context.full())
    layers = [(layer.dim, layer.stride) for layer in encoder.geometry.hidden]
    assert layers == [(8, 2), (12, 4), (12, 4), (10, 8), (12, 4)]
    num_frames = (110 - 5) // 4
    assert [tuple(values.shape) for values in found.hidden] == [
        (5, num_frames * 4 // stride, dim) for dim, stride in layers
    ]
    assert torch.equal(found.hidden[-1], found.encoded_BTD)


def test_the_context_matters(encoder: Zipformer2Encoder, utterances: list[Tensor]) -> None:
    contexts = [Context.full(), Context(4, 2), Context(8, 2), Context(4, 4), Context(0, 2)]
    with torch.no_grad():
        outputs = [encoder(*in_a_batch(utterances), context).encoded_BTD[0] for context in contexts]
    for index, first in enumerate(outputs):
        assert all(float((first - second).abs().max()) > 1e-3 for second in outputs[:index])


def test_full_windows_need_no_lengths_and_no_stream_grows_old(
    encoder: Zipformer2Encoder, utterances: list[Tensor]
) -> None:
    context = Context(4, 2)
    state = encoder.init_state(1, context)
    window_BWF = utterances[0][None, :21]
    with torch.no_grad():
        for _ in range(3):
            state = encoder.step(window_BWF, state, context).state
        without = encoder.step(window_BWF, state, context)
        given = encoder.step(window_BWF, state, context, torch.tensor([21]))
        old = encoder.step(window_BWF, state._replace(processed_B=state.processed_B + 10**8), context)
        new = encoder.step(window_BWF, state._replace(processed_B=state.processed_B * 0), context)
    assert torch.equal(without.encoded_BCD, given.encoded_BCD)
    assert without.lens_B.tolist() == given.lens_B.tolist() == [2]
    assert torch.equal(without.encoded_BCD, old.encoded_BCD)
    assert not torch.allclose(without.encoded_BCD, new.encoded_BCD, atol=1e-4)


def test_chunked_attention_costs_a_linear_amount(encoder: Zipformer2Encoder) -> None:
    recorder, sizes = Recorder(encoder), []
    for num_chunks in (10, 20):
        features_BTF = torch.randn(1, 4 * 4 * num_chunks + 5, 80, dtype=torch.float64)
        with torch.no_grad():
            encoder(features_BTF, torch.tensor([features_BTF.shape[1]]), Context(8, 4))
        sizes.append(sum(recorder[f"stacks.{i}.layers.0.attention_weights"].numel() for i in range(3)))
    assert sizes[1] == 2 * sizes[0]


@pytest.mark.parametrize("length", [0, 6, 8, 9, 12])
def test_utterances_of_no_or_one_frame(encoder: Zipformer2Encoder, length: int) -> None:
    features_BTF = torch.randn(2, length, 80, dtype=torch.float64)
    with torch.no_grad():
        found = encoder(features_BTF, torch.tensor([length, 0]), Context(4, 2))
    assert found.lens_B.tolist() == [int(length >= 9), 0]
    assert found.encoded_BTD.shape == (2, int(length >= 9), 12)
    assert bool(found.encoded_BTD.isfinite().all())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cnn_module_kernel": [7, 4, 3]}, "cnn_module_kernel has 4; kernels must be odd"),
        ({"encoder_unmasked_dim": [8, 8, 11]}, "encoder_unmasked_dim has 11 for a stack of width 10"),
        ({"num_heads": [2, 3]}, "num_heads has 2 values; expected one, or one for each of the 3 stacks"),
        ({"pos_dim": 7}, "pos_dim is 7; it must be even"),
        ({"downsampling_factor": [1, 0, 4]}, "downsampling_factor.1' is 0; expected at least 1"),
        ({"padding": "none"}, "padding' is none; expected one of own, batch"),
    ],
)
def test_impossible_sizes_are_named(changes: dict[str, object], said: str) -> None:
    config = small_config(**changes)
    with pytest.raises(UserError, match=re.escape(said)):
        check_options(config, "model.encoder")
        config.check(80)


@pytest.mark.parametrize(
    ("causal", "context", "said"),
    [
        (True, Context(4, 2, 1), "right must be a multiple of 2 frames"),
        (True, Context(4, 3), "chunk must be a multiple of 2 frames"),
        (True, Context(3, 4), "left must be a multiple of 2 frames"),
        (False, Context(4, 2), "needs model.encoder.causal=true for chunks"),
    ],
)
def test_contexts_that_it_cannot_have_are_refused(causal: bool, context: Context, said: str) -> None:
    encoder = small_config(causal=causal).build(80)
    for call in (
        lambda: encoder.init_state(1, context),
        lambda: encoder(torch.zeros(1, 50, 80), torch.tensor([50]), context),
    ):
        with pytest.raises(UserError, match=said):
            call()
