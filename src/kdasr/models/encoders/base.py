"""The contract of encoders: what a new one has to give, and all that the rest of the toolkit knows of any.

An encoder is one file beside this one. It holds the options, as a subclass of `EncoderConfig` whose `type`
names it in configurations, and the network, as a subclass of `Encoder`; `kdasr.models.encoders` imports it.

The law that every encoder has to keep: *chunk by chunk equals the whole utterance under the same context*.
`kdasr.recognition` relies on it, and `docs/extending.md` says how it is tested.
"""

# Shapes: B utterances or streams, T feature frames (10 ms), W feature frames of a window, F features,
# U encoder frames, C encoder frames of a chunk, D width.

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from kdasr.common.choices import OptionChoice
from kdasr.common.errors import UserError
from kdasr.common.feature_frames import FRAME_LENGTH_SECONDS, FRAME_SHIFT_SECONDS, KALDI
from kdasr.nn.context import Context

LengthT = TypeVar("LengthT", int, Tensor)

COPY, MASK = LOOKAHEADS = "copy", "mask"
"""How the layers of an encoder come by their look-ahead (option `lookahead`, of encoders that have one): each
computes it anew, or sees it as the layer below has made it for the next chunk."""

FIRST_TYPE = "conformer"
"""The encoder of configurations that do not name one: those from before there was a choice."""

EncoderState = Any
"""What an encoder remembers of each stream: a NamedTuple of tensors and of such tuples, where dimension 0 of
every tensor is the stream (`kdasr.nn.streaming`). Only the encoder looks into it."""


@dataclass(frozen=True)
class HiddenLayer:
    """The output of one layer, as losses compare it."""

    dim: int
    stride: int
    """Feature frames per frame of this layer."""

    @property
    def frame_seconds(self) -> float:
        """Duration of a frame of this layer."""
        return self.stride * FRAME_SHIFT_SECONDS


@dataclass(frozen=True)
class Geometry:
    """Widths and rates of an encoder, in feature frames of 10 ms. A function of its options alone."""

    dim: int
    """Width of an encoded frame."""
    stride: int
    """Feature frames per encoded frame: what a stream goes on by, for each frame of a chunk."""
    overlap: int
    """Feature frames that a window has beyond `stride` per frame; the next window begins before them."""
    hidden: tuple[HiddenLayer, ...]
    """Of every layer in `EncoderOutput.hidden`; empty for an encoder that shows none."""
    whole_overlap: int | None = None
    """The same of a whole utterance; less than `overlap` for an encoder that pads its end by itself. None:
    `overlap`."""
    features: str = KALDI
    """The kind of its feature frames, one of `kdasr.common.feature_frames.KINDS`."""
    lookahead_layers: int = 0
    """Layers above the first, where each of them sees its look-ahead as the layer below has made it: there it
    grows with every layer. 0: each layer computes it anew, and it does not grow."""
    symbols_per_frame: int = 1
    """Pieces that greedy search may say in one encoded frame; more than one where frames are long."""

    @property
    def frame_seconds(self) -> float:
        """Duration of an encoded frame."""
        return self.stride * FRAME_SHIFT_SECONDS

    @property
    def reach_seconds(self) -> float:
        """Audio that one encoded frame of a stream is computed from, but for its context."""
        return (self.window_features(1) - 1) * FRAME_SHIFT_SECONDS + FRAME_LENGTH_SECONDS

    def window_features(self, num_frames: int) -> int:
        """Feature frames of a window of a stream that gives `num_frames` encoded frames."""
        return self.stride * num_frames + self.overlap

    def wait_frames(self, context: Context) -> int:
        """Encoded frames from the first one of a chunk to the last one that the chunk depends on.

        The chunk and its look-ahead; where that grows, each layer above the first waits for the chunks that
        hold the look-ahead of the layer below. Chunked contexts only.
        """
        chunks_more = self.lookahead_layers * -(-context.right // context.chunk)
        return context.window_frames + chunks_more * context.chunk

    def needs_end(self, context: Context) -> bool:
        """Whether a stream is encoded when it has ended: under a full context, or with a look-ahead that
        grows with every layer."""
        return context.is_full or (context.right > 0 and self.lookahead_layers > 0)

    def check_stream(self, context: Context) -> None:
        """Refuse a context under which there are no streams.

        Raises:
            UserError: see `needs_end`.
        """
        if context.is_full:
            raise UserError("streaming needs a chunked context; the full context has no chunks")
        if self.needs_end(context):
            raise UserError(
                f"context '{context}': with model.encoder.lookahead=mask the look-ahead grows with every "
                "layer; such a model is not streamed chunk by chunk (decoding counts what it would wait for)"
            )

    def num_frames(self, num_features: LengthT) -> LengthT:
        """Encoded frames of whole utterances with so many feature frames; for int or int64 tensors."""
        overlap = self.overlap if self.whole_overlap is None else self.whole_overlap
        return _at_least_zero((num_features - overlap) // self.stride)

    def streamed_frames(self, num_features: LengthT) -> LengthT:
        """Encoded frames that streams with so many feature frames give; a whole utterance has no fewer."""
        return _at_least_zero((num_features - self.overlap) // self.stride)


def _at_least_zero(length: LengthT) -> LengthT:
    return length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)


class EncoderOutput(NamedTuple):
    """Encoded utterances. Frames beyond the lengths hold arbitrary finite values."""

    encoded_BTD: Tensor
    lens_B: Tensor
    """Encoded frames of each utterance, int64, on the CPU: `Geometry.num_frames` of its feature frames."""
    hidden: list[Tensor]
    """Output of every layer, (B, U, D) with width and rate of its own: `Geometry.hidden`."""


class StepOutput(NamedTuple):
    """One encoded window of each stream."""

    encoded_BCD: Tensor
    lens_B: Tensor
    """Valid frames of each stream, int64."""
    state: EncoderState
    """For the next window."""


@dataclass
class EncoderConfig(OptionChoice):
    """Options of an encoder. A subclass is a kind of encoder: it sets `type`, adds options, and overrides
    all methods below but `check_context`, if it can have any context."""

    type: str = FIRST_TYPE
    """Which encoder."""

    @property
    def geometry(self) -> Geometry:
        """Of the encoder that `build` makes."""
        raise NotImplementedError

    def check(self, num_features: int) -> None:
        """Refuse what the options' ranges allow and the encoder does not.

        Raises:
            UserError: naming the option, as `model.encoder.<option>`, and its value.
        """
        raise NotImplementedError

    def check_context(self, context: Context) -> None:
        """Refuse a context that the encoder cannot have, such as a look-ahead.

        Raises:
            UserError: naming the context.
        """

    def adapted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of a whole model, as a model with an encoder of these options starts from them.

        For what is trained in other parameters than it streams with: `state` may be of an encoder of this
        type that differs in nothing but that. The default changes nothing.
        """
        return state

    def build(self, num_features: int) -> "Encoder":
        """A freshly initialized encoder of `num_features` features per frame; seed torch first."""
        raise NotImplementedError


class Encoder(nn.Module, ABC):
    """Raw log-mel energies to encoded frames. The context is an argument of each call, not of the model."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.geometry = config.geometry
        self.is_repeating = False
        self.share = 1.0
        """How large the batch is by the joint batch of its optimizer step, in encoded frames: a step may have
        several batches. Of a batch without transcripts it is multiplied by the weight of its losses. What
        training adds to the gradient beside the losses is to be multiplied by it."""

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Within: what is encoded was encoded before in this step, under another context or mask.

        Whatever goes on by the speech that training has heard stands still.
        """
        before, self.is_repeating = self.is_repeating, True
        try:
            yield
        finally:
            self.is_repeating = before

    @abstractmethod
    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Take the mean and the standard deviation of each feature over the training data."""

    @abstractmethod
    def forward(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances.

        Args:
            features_BTF: raw log-mel energies, padded with anything finite.
            feature_lens_B: valid feature frames.
            context: what each frame may look at.
        """

    @abstractmethod
    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> EncoderState:
        """The state of streams that have seen nothing, on a device (None: that of the weights).

        Raises:
            UserError: see `check_stream`.
        """

    @abstractmethod
    def step(
        self,
        features_BWF: Tensor,
        state: EncoderState,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """Encode one window of each stream.

        Args:
            features_BWF: `geometry.window_features(context.window_frames)` feature frames; the stream's next
                window starts `geometry.stride * context.chunk` feature frames later.
            state: from `init_state` or from the previous step. Streams of any age may share a batch.
            context: the chunked context of the state.
            feature_lens_B: valid feature frames of each window, fewer only where the stream ends; None: all.

        Raises:
            UserError: see `check_window`.
        """

    def recompute_layers(self) -> None:
        """From now on keep only the input of each layer for the backward pass, and compute the rest again.

        Raises:
            UserError: this encoder cannot.
        """
        raise UserError(f"training.recompute_layers: encoders of type '{self.config.type}' cannot")

    def check_stream(self, context: Context) -> None:
        """Refuse a context that no stream of this encoder can have.

        Raises:
            UserError: the context is full, as a stream needs chunks; its look-ahead grows with every layer;
                or see `EncoderConfig.check_context`.
        """
        self.geometry.check_stream(context)
        self.config.check_context(context)

    def check_window(self, features_BWF: Tensor, context: Context) -> None:
        """Refuse a window of another size than that of the context.

        Raises:
            UserError: naming both sizes.
        """
        expected = self.geometry.window_features(context.window_frames)
        if features_BWF.shape[1] != expected:
            raise UserError(
                f"a window under '{context}' has {expected} feature frames, not {features_BWF.shape[1]}"
            )
