"""Our Zipformer2 with icefall's weights gives what icefall gives: whole, in masked chunks, as a stream."""

# Shapes: B utterances, T time, D width; icefall's layers are (T, B, D).

from typing import Any

import pytest
import torch
from torch import Tensor

from icefall_data import TOLERANCE, Recorder, golden, needs_icefall, weights, zipformer
from kdasr.interop.icefall_names import icefall_name
from kdasr.models.encoders.zipformer2.front_end import padded
from kdasr.nn.context import MOST_FRAMES, Context
from kdasr.nn.swoosh import swoosh_right

pytestmark = needs_icefall

CONTEXTS = {
    "full": Context.full(),
    "c16l64": Context(left=32, chunk=8),
    "c32l128": Context(left=64, chunk=16),
    "c16linf": Context(left=MOST_FRAMES, chunk=8),
}
STACKS = range(6)
SUM_TOLERANCE = {"atol": 5e-3, "rtol": 0}
"""Of sums over thousands of values."""


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, **TOLERANCE)


def time_first(x_BNWD: Tensor, num_frames: int) -> Tensor:
    return x_BNWD.flatten(1, 2)[:, :num_frames].transpose(0, 1)


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_every_weight_of_the_encoder_has_its_name(kind: str) -> None:
    """But for a scale per layer that icefall has and does not use."""
    encoder = zipformer(kind)
    factors = encoder.config.downsampling_factor
    ours = {icefall_name(name, factors): value.shape for name, value in encoder.named_parameters()}
    theirs = {
        name: value.shape
        for name, value in weights(kind).items()
        if name.startswith(("encoder.", "encoder_embed."))
    }
    unused = {name for name in theirs if name.split(".")[-2].isdigit() and name.endswith(".bypass_scale")}
    assert len(unused) == encoder.config.num_layers
    assert ours == {name: shape for name, shape in theirs.items() if name not in unused}


@pytest.mark.parametrize(("kind", "mode"), [("offline", "full"), *(("streaming", mode) for mode in CONTEXTS)])
def test_a_batch_is_encoded_as_icefall_does(kind: str, mode: str) -> None:
    data, encoder = golden(kind), zipformer(kind, padding="batch")
    recorder = Recorder(encoder)
    found = encoder(data["features"], data["feature_lens"], CONTEXTS[mode])
    close(found.encoded_BTD, data[f"{mode}.encoder_out"])
    assert torch.equal(found.lens_B, data[f"{mode}.encoder_out_lens"])
    if f"{mode}.stack0" in data:
        for stack in STACKS:
            close(time_first(recorder[f"stacks.{stack}"], 201), data[f"{mode}.stack{stack}"])
    if mode == "full":
        close(recorder["front_end.dropout"], data["embed.out"])


@pytest.mark.parametrize("kind", ["offline", "streaming"])
def test_with_padding_of_its_own_an_utterance_is_encoded_as_if_alone(kind: str) -> None:
    data = golden(kind)
    noisy_BTF = torch.cat([data["features"], torch.randn(2, 30, 80)], dim=1)
    noisy_BTF[1, 276:] = 3.0
    found = zipformer(kind)(noisy_BTF, data["feature_lens"], Context.full())
    for row in range(2):
        alone_BTD = data[f"single{row}.full.encoder_out"]
        close(found.encoded_BTD[row : row + 1, : alone_BTD.shape[1]], alone_BTD)


@pytest.mark.parametrize("mode", ["full", "c16l64"])
def test_every_part_of_a_layer_gives_what_icefalls_gives(mode: str) -> None:
    data, encoder = golden("streaming"), zipformer("streaming", padding="batch")
    recorder = Recorder(encoder)
    encoder(data["features"], data["feature_lens"], CONTEXTS[mode])
    names = {
        "feed_forward1": "feed_forward1",
        "nonlin_attention": "nonlin_attention",
        "self_attn1": "attention1",
        "conv_module1": "convolution1",
        "feed_forward2": "feed_forward2",
        "bypass_mid": "bypass_middle",
        "self_attn2": "attention2",
        "conv_module2": "convolution2",
        "feed_forward3": "feed_forward3",
        "norm": "norm",
        "out": "whiten",
    }
    prefix = f"debug.{mode}.stack3"
    close(time_first(recorder["stacks.3.downsample"], 26), data[f"{prefix}.downsample"])
    for theirs, ours in names.items():
        found = time_first(recorder[f"stacks.3.layers.0.{ours}"], 26)
        close(found, data[f"{prefix}.layer0.{theirs}"])
    blocks_BNHWK = recorder["stacks.3.layers.0.attention_weights"]
    close(dense(blocks_BNHWK, 26), data[f"{prefix}.layer0.attn_weights"])


def dense(blocks_BNHWK: Tensor, num_frames: int) -> Tensor:
    """Attention weights of blocks as one matrix (H, B, T, T)."""
    size, num_blocks, heads, block, keys = blocks_BNHWK.shape
    left, total = keys - block, num_blocks * block
    matrix = torch.zeros(heads, size, total, total + left)
    for index in range(num_blocks):
        rows = slice(index * block, (index + 1) * block)
        columns = slice(index * block, index * block + keys)
        matrix[:, :, rows, columns] = blocks_BNHWK[:, index].transpose(0, 1)
    return matrix[:, :, :num_frames, left : left + num_frames]


def test_every_part_of_the_front_end_gives_what_icefalls_gives() -> None:
    data, front_end = golden("streaming"), zipformer("streaming").front_end
    recorder = Recorder(front_end)
    mixed_BHUV = front_end.mix(padded(front_end.convolve(data["debug.embed.in"])))
    close(recorder["first"], data["debug.embed.conv0"])
    close(swoosh_right(recorder["first"]), data["debug.embed.conv3"])
    close(swoosh_right(recorder["second"]), data["debug.embed.conv6"])
    close(swoosh_right(recorder["third"]), data["debug.embed.conv9"])
    close(mixed_BHUV, data["debug.embed.convnext"])
    close(front_end.project(mixed_BHUV), data["debug.embed.norm"])
    close(recorder["output"], data["debug.embed.linear"])


@pytest.mark.parametrize("mode", ["c16l64", "c32l128"])
@pytest.mark.parametrize("padding", ["own", "batch"])
def test_streams_give_what_icefalls_streams_give(mode: str, padding: str) -> None:
    """With all states after each chunk: in full after the first and the second, by their sums after all."""
    data, context = golden("streaming"), CONTEXTS[mode]
    encoder = zipformer("streaming", padding=padding)
    features_BTF = data["stream.features"]
    whole_BTD = encoder(features_BTF, torch.tensor([429, 429]), context).encoded_BTD
    num_streamed = 104 // context.chunk * context.chunk
    expected_BTD = data[f"sim.{mode}.encoder_out"]
    close(whole_BTD[:, :num_streamed], expected_BTD[:, :num_streamed])
    if padding == "batch":
        close(whole_BTD, expected_BTD)
    recorder, state = Recorder(encoder), encoder.init_state(2, context)
    for turn, expected_BCD in enumerate(data[f"stream.{mode}.encoder_out"]):
        begin = 4 * context.chunk * turn
        window_BWF = features_BTF[:, begin : begin + 4 * context.chunk + 13]
        found_BCD, lens_B, state = encoder.step(window_BWF, state, context)
        close(found_BCD, expected_BCD)
        assert torch.equal(lens_B, data[f"stream.{mode}.encoder_out_lens"][turn])
        states = named_states(state)
        sums = [[float(value.sum()), float(value.abs().sum())] for value in states.values()]
        torch.testing.assert_close(
            torch.tensor(sums).double(), data[f"stream.{mode}.state_sums"][turn], **SUM_TOLERANCE
        )
        if mode == "c16l64":
            close(recorder["front_end.dropout"], data[f"stream.{mode}.embed"][turn])
            for name, value in states.items() if turn < 2 else ():
                close(value, data[f"stream.{mode}.after{turn + 1}.{name}"])
            for stack in STACKS if turn in (0, 1, 6) else ():
                found = time_first(recorder[f"stacks.{stack}"], 16)
                close(found, data[f"stream.{mode}.chunk{turn}.stack{stack}"])


def named_states(state: Any) -> dict[str, Tensor]:
    """The states with icefall's names and shapes, in its order."""
    named = {}
    for index, layer in enumerate(layer for stack in state.layers for layer in stack):
        named[f"cached_key_{index}"] = layer.keys_BLD.transpose(0, 1)
        named[f"cached_nonlin_attn_{index}"] = layer.gated_BLD.unsqueeze(0)
        named[f"cached_val1_{index}"] = layer.values1_BLD.transpose(0, 1)
        named[f"cached_val2_{index}"] = layer.values2_BLD.transpose(0, 1)
        named[f"cached_conv1_{index}"] = layer.convolution1_BHD.transpose(1, 2)
        named[f"cached_conv2_{index}"] = layer.convolution2_BHD.transpose(1, 2)
    named["embed_states"] = state.front_BHTV
    named["processed_lens"] = state.processed_B
    assert list(named) == golden("streaming")["stream.state_names"].tolist()
    return named


def test_a_last_window_that_is_not_full_is_encoded_as_icefall_does() -> None:
    data, context = golden("streaming"), CONTEXTS["c16l64"]
    encoder, state = zipformer("streaming", padding="batch"), None
    state = encoder.init_state(2, context)
    for begin in (0, 32):
        state = encoder.step(data["stream.features"][:, begin : begin + 45], state, context).state
    lens_B = data["stream.partial.feature_lens"]
    recorder = Recorder(encoder)
    found = encoder.step(data["stream.partial.features"], state, context, lens_B)
    close(recorder["front_end.dropout"], data["stream.partial.embed"])
    close(found.encoded_BCD, data["stream.partial.encoder_out"])
    # icefall counts a last frame that is half there.
    assert found.lens_B.tolist() == ((lens_B - 13) // 4).tolist()
    assert torch.equal(data["stream.partial.encoder_out_lens"], ((lens_B - 7) // 2 - 2) // 2)
    states = named_states(found.state)
    assert torch.equal(states["processed_lens"], data["stream.partial.processed_lens"])
    sums = [[float(value.sum()), float(value.abs().sum())] for value in states.values()]
    torch.testing.assert_close(
        torch.tensor(sums).double(), data["stream.partial.state_sums"], **SUM_TOLERANCE
    )
