"""A Zipformer2 student's encoder as a module whose graph is in icefall's and sherpa-onnx's contract.

The contract: icefall's `export-onnx-streaming.py` and sherpa-onnx's `online-zipformer2-transducer-model.cc`.
Every layer has six state tensors, the front end has one, and `processed_lens` counts frames of 20 ms. The
runtime binds tensors by position and makes the first states, of zeros, from the metadata.
"""

# Shapes: N streams, T feature frames of a window, F features, C encoder frames of a chunk, W = 2 C frames of
# 20 ms, L frames of left context at a stack's rate, R = L + 2 W - 1 relative positions, H frames that the
# convolutions look back, P = H + W, D width, X width of keys, values or gated values, J joiner width,
# I inputs and O outputs of a linear layer.

from collections.abc import Iterable
from copy import deepcopy
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.export.layers import Affine
from kdasr.models.encoders.zipformer2.config import INNER_STRIDE, OUTPUT_FACTOR, Zipformer2Config
from kdasr.models.encoders.zipformer2.convolution import ChunkDepthwise
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder, Zipformer2State
from kdasr.models.encoders.zipformer2.frames import CallFrames, Frames, relative_positions
from kdasr.models.encoders.zipformer2.layer import Layer, LayerState
from kdasr.models.encoders.zipformer2.stack import Stack
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.depthwise import depthwise_conv
from kdasr.nn.linear import Linear

_LAYER_STATES = {
    "cached_key": 1,
    "cached_nonlin_attn": 1,
    "cached_val1": 1,
    "cached_val2": 1,
    "cached_conv1": 0,
    "cached_conv2": 0,
}
"""The states of a layer in order, and the dimension of each that is the stream."""


FRONT_CHANNELS = 128
"""Channels that sherpa-onnx gives to the state of the front end, whatever the model has."""

EncoderT = TypeVar("EncoderT", bound=nn.Module)


class StateShape(NamedTuple):
    """A state tensor of the contract."""

    name: str
    stream_dim: int


def state_tensors(num_layers: int) -> list[StateShape]:
    """All state tensors but `processed_lens`, in order."""
    layers = [
        StateShape(f"{name}_{layer}", dim)
        for layer in range(num_layers)
        for name, dim in _LAYER_STATES.items()
    ]
    return [*layers, StateShape("embed_states", 0)]


def check_exported_context(context: Context) -> None:
    """
    Raises:
        UserError: the contract has no place for this chunked context.
    """
    if context.left == 0:
        raise UserError(f"context '{context}': exporting a zipformer2 needs a left context above 0")
    if context.right > 0:
        raise UserError(f"context '{context}': sherpa-onnx's zipformer2 has no look-ahead; give right=0")


class Zipformer2Graph(nn.Module):
    """`Zipformer2Encoder.step` and the joiner's projection, for windows all of whose frames are valid.

    The model's own layers compute, but for what a context makes constant: positions and edges of chunks.
    """

    def __init__(self, model: Transducer, context: Context) -> None:
        """
        Raises:
            UserError: a context that the encoder cannot have; or what the contract has no place for: a
                context without left frames, one that looks ahead, a front end with too many channels.
        """
        super().__init__()
        encoder = model.encoder
        assert isinstance(encoder, Zipformer2Encoder) and not context.is_full
        encoder.check_stream(context)
        check_exported_context(context)
        if encoder.config.layer3_channels > FRONT_CHANNELS:
            raise UserError(
                f"model.encoder.layer3_channels is {encoder.config.layer3_channels}; a zipformer2 that "
                f"sherpa-onnx streams has at most {FRONT_CHANNELS}"
            )
        self.context = context
        self.encoder = for_runtime(encoder, context)
        self.project = Affine.of(model.joiner.encoder_projection)
        self.states = state_tensors(encoder.config.num_layers)
        self._start = packed(encoder.init_state(1, context))

    @property
    def window_features(self) -> int:
        """T."""
        return self.encoder.geometry.window_features(self.context.chunk)

    @property
    def inputs(self) -> dict[str, int]:
        """Names of the inputs, and the dimension of each that is the stream."""
        return {"x": 0, **{state.name: state.stream_dim for state in self.states}, "processed_lens": 0}

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return ["encoder_out", *(f"new_{state.name}" for state in self.states), "new_processed_lens"]

    @property
    def metadata(self) -> dict[str, int | str]:
        """What sherpa-onnx reads, and what icefall adds."""
        left, stacks = OUTPUT_FACTOR * self.context.left, self.encoder.config.stacks
        return {
            "model_type": "zipformer2",
            "version": "1",
            "model_author": "k2-fsa",
            "comment": "streaming zipformer2",
            "decode_chunk_len": INNER_STRIDE * OUTPUT_FACTOR * self.context.chunk,
            "T": self.window_features,
            "num_encoder_layers": _list(stack.num_layers for stack in stacks),
            "encoder_dims": _list(stack.dim for stack in stacks),
            "cnn_module_kernels": _list(stack.kernel for stack in stacks),
            "left_context_len": _list(left // stack.factor for stack in stacks),
            "query_head_dims": _list(stack.query_head_dim for stack in stacks),
            "value_head_dims": _list(stack.value_head_dim for stack in stacks),
            "num_heads": _list(stack.num_heads for stack in stacks),
        }

    @property
    def facts(self) -> dict[str, object]:
        """What a manifest keeps, so that shapes can be told from a context."""
        stacks = self.encoder.config.stacks
        return {
            "num_encoder_layers": [stack.num_layers for stack in stacks],
            "downsampling_factor": [stack.factor for stack in stacks],
        }

    def example(self, num_streams: int, num_features: int) -> tuple[Tensor, list[Tensor], Tensor]:
        """Arguments of `forward`, of new streams."""
        x_NTF = torch.zeros(num_streams, self.window_features, num_features)
        states = [
            tensor.repeat_interleave(num_streams, dim=state.stream_dim)
            for tensor, state in zip(self._start, self.states, strict=True)
        ]
        return x_NTF, states, torch.zeros(num_streams, dtype=torch.int64)

    def forward(
        self, x_NTF: Tensor, states: list[Tensor], processed_N: Tensor
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Encode a window of each stream.

        Args:
            x_NTF: raw log-mel energies.
            states: in the order of `states`.
            processed_N: frames of 20 ms before these windows, int64.

        Returns:
            Encoded frames, projected to the joiner (N, C, J), the states, and the frames after this chunk.
        """
        state = unpacked(states, processed_N, self.encoder.config)
        encoded_NCD, _, state = self.encoder.step(x_NTF, state, self.context)
        return self.project(encoded_NCD), packed(state), state.processed_B


def packed(state: Zipformer2State) -> list[Tensor]:
    """Our state as the contract's tensors, without `processed_lens`; channels that are not there are 0."""
    tensors = []
    for layer in (layer for stack in state.layers for layer in stack):
        keys_NLX, gated_NLX, values1_NLX, values2_NLX, conv1_NHD, conv2_NHD = layer
        tensors += [keys_NLX.transpose(0, 1), gated_NLX.unsqueeze(0)]
        tensors += [values1_NLX.transpose(0, 1), values2_NLX.transpose(0, 1)]
        tensors += [conv1_NHD.transpose(1, 2), conv2_NHD.transpose(1, 2)]
    front_BHTV = state.front_BHTV
    unused = FRONT_CHANNELS - front_BHTV.shape[1]
    return [*tensors, functional.pad(front_BHTV, (0, 0, 0, 0, 0, unused)) if unused else front_BHTV]


def unpacked(tensors: list[Tensor], processed_N: Tensor, config: Zipformer2Config) -> Zipformer2State:
    """The contract's tensors as the state of an encoder with this configuration."""
    layers = []
    for start in range(0, len(tensors) - 1, len(_LAYER_STATES)):
        keys_LNX, gated, values1_LNX, values2_LNX, conv1_NDH, conv2_NDH = tensors[
            start : start + len(_LAYER_STATES)
        ]
        layers.append(
            LayerState(
                keys_LNX.transpose(0, 1),
                gated.squeeze(0),
                values1_LNX.transpose(0, 1),
                values2_LNX.transpose(0, 1),
                conv1_NDH.transpose(1, 2),
                conv2_NDH.transpose(1, 2),
            )
        )
    grouped = iter(layers)
    by_stack = tuple(tuple(next(grouped) for _ in range(stack.num_layers)) for stack in config.stacks)
    return Zipformer2State(processed_N, tensors[-1][:, : config.layer3_channels], by_stack)


def for_runtime(encoder: Zipformer2Encoder, context: Context) -> Zipformer2Encoder:
    """A copy for a graph: positions and the factors at the edges of chunks are constants."""
    encoder = deepcopy(encoder).eval()
    for stack in encoder.stacks:
        _fix_context(cast(Stack, stack), context)
    return with_products(encoder)


def with_products(encoder: EncoderT) -> EncoderT:
    """The same encoder, its linear layers replaced by products that quantization recognizes."""
    for parent in list(encoder.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear):
                setattr(parent, name, Affine.of(child) if child.bias is not None else Product(child.weight))
    return encoder


def _fix_context(stack: Stack, context: Context) -> None:
    """Replace what depends on the context alone."""
    block, left = OUTPUT_FACTOR * context.chunk, OUTPUT_FACTOR * context.left
    visible = torch.ones(1, 1, left + block, dtype=torch.bool)
    call = CallFrames(
        block=block, chunk=block, left=left, visible_BNK=visible, all_valid=True, ends_B=None, edge=block
    )
    frames = call.at_rate(stack.sizes.factor)
    for layer in (cast(Layer, layer) for layer in stack.layers):
        weights = layer.attention_weights
        positions_RP = relative_positions(frames, stack.pos_dim, weights.project_positions.weight)
        with torch.no_grad():
            projected = Constant(weights.project_positions(positions_RP))
        weights.project_positions = projected  # type: ignore[assignment]
        for module in (layer.convolution1, layer.convolution2):
            assert isinstance(module.depthwise, ChunkDepthwise)
            module.depthwise = FixedChunkDepthwise(module.depthwise, frames)  # type: ignore[assignment]


class Product(nn.Module):
    """x W."""

    weight_IO: Tensor

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_IO", weight_OI.detach().t().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight_IO)


class Constant(nn.Module):
    """The same value for every input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value.detach().clone())

    def forward(self, _: Tensor) -> Tensor:
        return self.value


class FixedChunkDepthwise(nn.Module):
    """`ChunkDepthwise` for one chunk at a time, the factors at its edges computed beforehand."""

    factors_WD: Tensor

    def __init__(self, source: ChunkDepthwise, frames: Frames) -> None:
        super().__init__()
        self.reach, self.causal, self.inner = source.reach, source.causal, source.inner
        with torch.no_grad():
            self.register_buffer("factors_WD", source.factors(frames).clone())

    def forward(self, x_N1WD: Tensor, cache_NHD: Tensor, frames: Frames) -> tuple[Tensor, Tensor]:
        """Chunks (N, 1, W, D) and the H frames before them to chunks and the last H frames."""
        x_NWD = x_N1WD.squeeze(1)
        joined_NPD = torch.cat([cache_NHD, x_NWD], dim=1)
        past_NWD = _convolved(joined_NPD, self.causal)
        own_NWD = _convolved(functional.pad(x_NWD, (0, 0, self.reach, self.reach)), self.inner)
        y_NWD = past_NWD + own_NWD * self.factors_WD
        return y_NWD.unsqueeze(1), joined_NPD[:, frames.block :]


def _convolved(x_NPD: Tensor, conv: nn.Conv1d) -> Tensor:
    assert conv.bias is not None
    return depthwise_conv(x_NPD, conv.weight.squeeze(1), conv.bias)


def _list(values: Iterable[int]) -> str:
    return ",".join(map(str, values))
