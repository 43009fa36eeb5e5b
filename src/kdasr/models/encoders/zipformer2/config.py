"""The options of a Zipformer2 encoder, named as in icefall."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm
from typing import TYPE_CHECKING, Annotated, NamedTuple

from kdasr.common.errors import UserError
from kdasr.common.ranges import Items, OneOf, above, at_least
from kdasr.models.encoders.base import COPY, LOOKAHEADS, MASK, EncoderConfig, Geometry, HiddenLayer
from kdasr.nn.context import Context

if TYPE_CHECKING:
    from torch import Tensor

    from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder

OUTPUT_FACTOR = 2
"""Frames of the stacks (20 ms) per encoded frame (40 ms)."""
INNER_STRIDE = 2
"""Feature frames per frame of the stacks."""
MIN_FEATURES = 7
"""Mel bins that leave one after the convolutions of the front end."""
PER_STACK = Items(at_least=1, unique=False)

PADDINGS = ("own", "batch")


class StackSizes(NamedTuple):
    """The sizes of one stack."""

    num_layers: int
    factor: int
    dim: int
    unmasked_dim: int
    feedforward_dim: int
    num_heads: int
    query_head_dim: int
    pos_head_dim: int
    value_head_dim: int
    kernel: int


@dataclass
class Zipformer2Config(EncoderConfig):
    """Zipformer2 (Yao et al. 2024) in icefall's medium size. A list has a value per stack, or one for all.

    icefall's `chunk_size` and `left_context_frames` are the `contexts` of a system here.
    """

    type: str = "zipformer2"
    num_encoder_layers: Annotated[list[int], at_least(1), PER_STACK] = field(
        default_factory=lambda: [2, 2, 3, 4, 3, 2]
    )
    """Layers of each stack."""
    downsampling_factor: Annotated[list[int], at_least(1), PER_STACK] = field(
        default_factory=lambda: [1, 2, 4, 8, 4, 2]
    )
    """Frames of 20 ms per frame of each stack."""
    encoder_dim: Annotated[list[int], at_least(2), PER_STACK] = field(
        default_factory=lambda: [192, 256, 384, 512, 384, 256]
    )
    """Width of each stack."""
    encoder_unmasked_dim: Annotated[list[int], at_least(1), PER_STACK] = field(
        default_factory=lambda: [192, 192, 256, 256, 256, 192]
    )
    """Channels that training never masks."""
    feedforward_dim: Annotated[list[int], at_least(4), PER_STACK] = field(
        default_factory=lambda: [512, 768, 1024, 1536, 1024, 768]
    )
    """Inner width of the middle one of three feed-forward modules, by stack."""
    num_heads: Annotated[list[int], at_least(1), PER_STACK] = field(
        default_factory=lambda: [4, 4, 4, 8, 4, 4]
    )
    """Attention heads, by stack."""
    query_head_dim: Annotated[list[int], at_least(1), PER_STACK] = field(default_factory=lambda: [32])
    """Width of queries and keys per head, by stack or one for all."""
    pos_head_dim: Annotated[list[int], at_least(1), PER_STACK] = field(default_factory=lambda: [4])
    """Width of the queries for positions per head."""
    value_head_dim: Annotated[list[int], at_least(1), PER_STACK] = field(default_factory=lambda: [12])
    """Width of the values per head."""
    pos_dim: Annotated[int, at_least(2)] = 48
    """Width of the vectors that stand for relative positions; even."""
    cnn_module_kernel: Annotated[list[int], at_least(1), PER_STACK] = field(
        default_factory=lambda: [31, 31, 15, 15, 15, 31]
    )
    """Depthwise kernels, odd."""
    layer1_channels: Annotated[int, at_least(1)] = 8
    """Channels of the front end's first convolution, of all feature frames and features."""
    layer2_channels: Annotated[int, at_least(1)] = 32
    """Channels of the second one, with half of the frames and features."""
    layer3_channels: Annotated[int, at_least(1)] = 128
    """Channels of the third one and of the block behind it, with a quarter of the features. At most 128, if
    sherpa-onnx is to stream the model."""
    causal: bool = False
    """Convolutions that do not look beyond their chunk: for chunked contexts, and with other parameters."""
    warmup_batches: Annotated[float, above(0)] = 4000.0
    """Batches until every layer takes part in full."""
    ref_duration: Annotated[float, above(0)] = 600.0
    """Seconds of speech, padding included, that schedules of training count as one batch. They end after
    20,000 batches: in a training of H hours with H / 6 seconds or less."""
    padding: Annotated[str, OneOf(*PADDINGS)] = "own"
    """own: the frames of an utterance do not depend on its batch, and chunks equal the whole. batch: as in
    icefall, where utterances see some of the padding behind them."""
    lookahead: Annotated[str, OneOf(*LOOKAHEADS)] = COPY
    """copy: each layer computes the look-ahead anew, so it does not grow. mask: a layer sees it as the layer
    below has made it, so every layer waits for a chunk more; for comparison, without streams."""

    @property
    def geometry(self) -> Geometry:
        """A frame per four feature frames. The layers have the rates of their stacks; the output is last."""
        layers = tuple(
            HiddenLayer(stack.dim, INNER_STRIDE * stack.factor)
            for stack in self.stacks
            for _ in range(stack.num_layers)
        )
        dim, stride = max(self.encoder_dim), INNER_STRIDE * OUTPUT_FACTOR
        output = HiddenLayer(dim, stride)
        growing = self.num_layers - 1 if self.lookahead == MASK else 0
        return Geometry(
            dim=dim,
            stride=stride,
            overlap=13,
            hidden=(*layers, output),
            whole_overlap=5,
            lookahead_layers=growing,
        )

    @property
    def num_layers(self) -> int:
        """Layers of all stacks together."""
        return sum(stack.num_layers for stack in self.stacks)

    @property
    def stacks(self) -> list[StackSizes]:
        """The sizes of each stack; of lists of unequal lengths, as far as the shortest goes."""
        columns = [self.num_encoder_layers, self.downsampling_factor, self.encoder_dim]
        columns += [self.encoder_unmasked_dim, self.feedforward_dim, self.num_heads, self.query_head_dim]
        columns += [self.pos_head_dim, self.value_head_dim, self.cnn_module_kernel]
        num_stacks = max(map(len, columns))
        filled = [column * num_stacks if len(column) == 1 else column for column in columns]
        return [StackSizes(*row) for row in zip(*filled, strict=False)]

    @property
    def front_end_channels(self) -> tuple[int, int, int]:
        """Channels of the convolutions of the front end."""
        return self.layer1_channels, self.layer2_channels, self.layer3_channels

    @property
    def frame_multiple(self) -> int:
        """Frames of 20 ms that every stack, and the output, divides evenly."""
        return lcm(OUTPUT_FACTOR, *self.downsampling_factor)

    def check(self, num_features: int) -> None:
        """
        Raises:
            UserError: naming the option and its value.
        """
        if num_features < MIN_FEATURES:
            raise UserError(
                f"option 'model.num_features' is {num_features}; expected at least {MIN_FEATURES}"
            )
        if self.pos_dim % 2:
            raise UserError(f"model.encoder.pos_dim is {self.pos_dim}; it must be even")
        lists = {name: value for name, value in vars(self).items() if isinstance(value, list)}
        num_stacks = max(map(len, lists.values()))
        for name, values in lists.items():
            if len(values) not in (1, num_stacks):
                raise UserError(
                    f"model.encoder.{name} has {len(values)} values; expected one, or one for each of the "
                    f"{num_stacks} stacks"
                )
        for stack in self.stacks:
            if stack.kernel % 2 == 0:
                raise UserError(f"model.encoder.cnn_module_kernel has {stack.kernel}; kernels must be odd")
            if stack.unmasked_dim > stack.dim:
                raise UserError(
                    f"model.encoder.encoder_unmasked_dim has {stack.unmasked_dim} for a stack of width "
                    f"{stack.dim} (model.encoder.encoder_dim); it must not be more"
                )

    def check_context(self, context: Context) -> None:
        """
        Raises:
            UserError: chunks of an encoder that is not causal; or sizes that a stack does not
                divide evenly.
        """
        if context.is_full:
            return
        if not self.causal:
            raise UserError(f"context '{context}': a zipformer2 needs model.encoder.causal=true for chunks")
        multiple = self.frame_multiple // OUTPUT_FACTOR
        for name, frames in (("chunk", context.chunk), ("left", context.left), ("right", context.right)):
            if frames % multiple:
                raise UserError(
                    f"context '{context}': {name} must be a multiple of {multiple} frames, with "
                    f"model.encoder.downsampling_factor {self.downsampling_factor}"
                )

    def adapted(self, state: Mapping[str, "Tensor"]) -> Mapping[str, "Tensor"]:
        """A causal encoder takes the weights of one that is not: see `causal_weights`."""
        from kdasr.models.encoders.zipformer2.causal import causal_weights, is_causal

        return causal_weights(state) if self.causal and not is_causal(state) else state

    def build(self, num_features: int) -> "Zipformer2Encoder":
        """A freshly initialized Zipformer2."""
        from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder

        return Zipformer2Encoder(self, num_features)
