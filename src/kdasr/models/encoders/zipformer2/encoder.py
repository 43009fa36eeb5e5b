"""The Zipformer2 encoder behind the contract of encoders."""

# Shapes: B streams or utterances, T feature frames, W of a window, F features, U frames of 20 ms, N blocks,
# C encoded frames of a chunk, H channels of the front end, V features left in it, D width.

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.models.encoders.base import Encoder, EncoderOutput, StepOutput
from kdasr.models.encoders.zipformer2.config import INNER_STRIDE, OUTPUT_FACTOR, Zipformer2Config
from kdasr.models.encoders.zipformer2.frames import CallFrames, visible_keys
from kdasr.models.encoders.zipformer2.front_end import REACH, FrontEnd, padded
from kdasr.models.encoders.zipformer2.layer import LayerState
from kdasr.models.encoders.zipformer2.stack import Downsample, Stack
from kdasr.nn.blocks import main_frames, to_blocks
from kdasr.nn.context import Context
from kdasr.nn.schedule import Clock

SILENCE = -23.025850929940457
"""ln(1e-10): what the features behind the end of an utterance are taken to be."""
TAIL = 8
"""Feature frames of silence behind an utterance, so that its stream has as many frames as the utterance."""


class Zipformer2State(NamedTuple):
    """What the encoder remembers of each stream; dimension 0 of every tensor is the stream."""

    processed_B: Tensor
    """Frames of 20 ms seen so far, int64."""
    front_BHTV: Tensor
    """The last three frames in the front end."""
    layers: tuple[tuple[LayerState, ...], ...]
    """Of each stack."""


class Zipformer2Encoder(Encoder):
    """Front end, stacks of layers at several frame rates, and a mean of every two frames."""

    config: Zipformer2Config

    def __init__(self, config: Zipformer2Config, num_features: int) -> None:
        super().__init__(config)
        self.clock = Clock()
        stacks = config.stacks
        self.front_end = FrontEnd(num_features, config.front_end_channels, stacks[0].dim, self.clock)
        self.stacks = nn.ModuleList(
            Stack(sizes, config, self.clock, index) for index, sizes in enumerate(stacks)
        )
        self.output = Downsample(OUTPUT_FACTOR)
        self.trained_frames: Tensor
        self.register_buffer("trained_frames", torch.zeros((), dtype=torch.int64))
        self._num_trained = 0
        self.register_load_state_dict_post_hook(_go_on)

    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Nothing: as in icefall, features go in as they are."""

    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> Zipformer2State:
        """The state of streams that have seen nothing. See `Encoder.init_state`."""
        self.check_stream(context)
        return self._zero_state(batch_size, OUTPUT_FACTOR * context.left, device)

    def forward(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances. See `Encoder.forward`.

        Raises:
            UserError: a context that this encoder cannot have.
        """
        self.config.check_context(context)
        lens_B = self.geometry.num_frames(feature_lens_B.cpu())
        num_frames = self.geometry.num_frames(features_BTF.shape[1])
        if num_frames == 0:
            return self._nothing(features_BTF, lens_B)
        if self.training and not self.is_repeating:
            self._count(features_BTF)
        self.clock.share = self.share
        feature_lens_B = feature_lens_B.to(features_BTF.device, non_blocking=True)
        x_BUD, frame_lens_B, ends_B = self.whole(features_BTF, feature_lens_B, context)
        (left, chunk, right), edge = self._blocks(x_BUD.shape[1], context)
        x_BNUD = to_blocks(x_BUD, chunk, right)
        processed_B = torch.zeros_like(frame_lens_B)
        call = CallFrames(
            block=chunk + right,
            chunk=chunk,
            left=left,
            visible_BNK=visible_keys(x_BNUD.shape[1], (left, chunk, right), frame_lens_B, processed_B),
            all_valid=False,
            ends_B=ends_B,
            edge=edge,
        )
        state = self._zero_state(x_BUD.shape[0], left, x_BUD.device)
        encoded_BNCD, layers, _ = self._run_stacks(x_BNUD, state.layers, call)
        encoded_BUD = main_frames(encoded_BNCD, chunk // OUTPUT_FACTOR)[:, :num_frames]
        hidden = [
            main_frames(layer_BNUD, INNER_STRIDE * chunk // layer.stride)[
                :, : num_frames * self.geometry.stride // layer.stride
            ]
            for layer_BNUD, layer in zip(layers, self.geometry.hidden[:-1], strict=True)
        ]
        return EncoderOutput(encoded_BUD, lens_B, [*hidden, encoded_BUD])

    def step(
        self,
        features_BWF: Tensor,
        state: Zipformer2State,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """Encode one window of each stream. See `Encoder.step`."""
        self.check_window(features_BWF, context)
        block, chunk = OUTPUT_FACTOR * context.window_frames, OUTPUT_FACTOR * context.chunk
        frame_lens_B = torch.full_like(state.processed_B, block)
        lens_B, ends_B = torch.full_like(state.processed_B, context.chunk), None
        if feature_lens_B is not None:
            feature_lens_B = feature_lens_B.to(features_BWF.device, non_blocking=True)
            features_BWF = _silenced(features_BWF, feature_lens_B)
            lens_B = self.geometry.streamed_frames(feature_lens_B).clamp(max=context.chunk)
            frame_lens_B = self._streamed_lens(feature_lens_B).clamp(max=block)
            ends_B = torch.full_like(frame_lens_B, block) if self._as_batch else frame_lens_B
        x_BHUV = self.front_end.convolve(features_BWF)
        x_BHUV = torch.cat([state.front_BHTV, x_BHUV], dim=2)
        x_BUD = self.front_end.project(self.front_end.mix(x_BHUV))
        left = OUTPUT_FACTOR * context.left
        call = CallFrames(
            block=block,
            chunk=chunk,
            left=left,
            visible_BNK=visible_keys(1, (left, chunk, block - chunk), frame_lens_B, state.processed_B),
            all_valid=feature_lens_B is None,
            ends_B=ends_B,
            edge=block,
        )
        encoded_BNCD, _, layers = self._run_stacks(x_BUD.unsqueeze(1), state.layers, call)
        new_state = Zipformer2State(
            state.processed_B + frame_lens_B.clamp(max=chunk), x_BHUV[:, :, chunk : chunk + REACH], layers
        )
        return StepOutput(main_frames(encoded_BNCD, context.chunk), lens_B, new_state)

    @property
    def _as_batch(self) -> bool:
        return self.config.padding == "batch"

    def whole(
        self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Whole utterances through the front end: frames of 20 ms, how many are valid, and where they end.

        With padding of their own, utterances under a full context end with zeros in the front end, as if each
        were alone; in chunks they end as their streams do, with silence in the features.
        """
        front_end = self.front_end
        features_BTF = _silenced(features_BTF, feature_lens_B)
        if not context.is_full and not self._as_batch:
            features_BTF = functional.pad(features_BTF, (0, 0, 0, TAIL), value=SILENCE)
            x_BHUV = front_end.convolve(features_BTF)
            x_BHUV = functional.pad(x_BHUV, (0, 0, REACH, 0))
            frame_lens_B = self._streamed_lens(feature_lens_B)
            return front_end.project(front_end.mix(x_BHUV)), frame_lens_B, frame_lens_B
        x_BHUV = front_end.convolve(features_BTF)
        frame_lens_B = ((feature_lens_B - 7) // 2).clamp(min=0)
        ends_B = frame_lens_B
        num_frames = x_BHUV.shape[2]
        if self._as_batch:
            ends_B = torch.full_like(frame_lens_B, num_frames)
        else:
            beyond_BU = torch.arange(num_frames, device=x_BHUV.device) >= frame_lens_B[:, None]
            x_BHUV = x_BHUV.masked_fill(beyond_BU[:, None, :, None], 0.0)
        return front_end.project(front_end.mix(padded(x_BHUV))), frame_lens_B, ends_B

    def _streamed_lens(self, feature_lens_B: Tensor) -> Tensor:
        """Frames of 20 ms that a stream with so many feature frames has when it is over."""
        tail = 0 if self._as_batch else TAIL
        return ((feature_lens_B + tail - 7) // 2 - REACH).clamp(min=0)

    def _blocks(self, num_frames: int, context: Context) -> tuple[tuple[int, int, int], int | None]:
        """Frames before a chunk, of the chunk and of its look-ahead, and frames from the start of the chunk
        to the edge of the look-ahead (None: to the end of the utterance)."""
        multiple = self.config.frame_multiple
        whole = -(-num_frames // multiple) * multiple
        chunk, left = OUTPUT_FACTOR * context.chunk, OUTPUT_FACTOR * context.left
        if context.is_full or (self._as_batch and chunk >= num_frames):
            return (0, whole, 0), None
        right = OUTPUT_FACTOR * context.right
        if chunk >= whole:
            return (0, whole, 0), chunk + right
        return (min(left, (-(-num_frames // chunk) - 1) * chunk), chunk, right), chunk + right

    def encode_blocks(self, x_BNUD: Tensor, call: CallFrames) -> Tensor:
        """Blocks of new streams, from the front end's frames to encoded ones."""
        stacks = (cast(Stack, stack) for stack in self.stacks)
        states = tuple(stack.init_state(x_BNUD.shape[0], call.left, x_BNUD) for stack in stacks)
        return self._run_stacks(x_BNUD, states, call)[0]

    def _run_stacks(
        self, x_BNUD: Tensor, states: tuple[tuple[LayerState, ...], ...], call: CallFrames
    ) -> tuple[Tensor, list[Tensor], tuple[tuple[LayerState, ...], ...]]:
        """Encoded blocks, the output of every layer, and the states after them."""
        outputs, layers, new_states = [], [], []
        for stack, stack_states in zip(self.stacks, states, strict=True):
            x_BNUD, layer_outputs, stack_states = stack(x_BNUD, stack_states, call)
            outputs.append(x_BNUD)
            layers += layer_outputs
            new_states.append(stack_states)
        return self.output(_widest(outputs), call), layers, tuple(new_states)

    def _zero_state(self, batch_size: int, left: int, device: torch.device | str | None) -> Zipformer2State:
        like = self.front_end.norm.bias.new_empty(0, device=device)
        stacks = (cast(Stack, stack) for stack in self.stacks)
        return Zipformer2State(
            torch.zeros(batch_size, dtype=torch.int64, device=like.device),
            self.front_end.init_state(batch_size, like),
            tuple(stack.init_state(batch_size, left, like) for stack in stacks),
        )

    def _nothing(self, features_BTF: Tensor, lens_B: Tensor) -> EncoderOutput:
        """Of utterances that are too short for a frame."""
        hidden = [features_BTF.new_zeros(len(features_BTF), 0, layer.dim) for layer in self.geometry.hidden]
        return EncoderOutput(hidden[-1], lens_B, hidden)

    def _count(self, features_BTF: Tensor) -> None:
        """Let the schedules go on by the speech of this batch, padding included, on all processes."""
        frames = features_BTF.shape[0] * features_BTF.shape[1]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            frames *= torch.distributed.get_world_size()
        self.trained_frames += frames
        self.set_clock(self._num_trained + frames)

    def set_clock(self, feature_frames: int) -> None:
        """Put the schedules where they are after so much speech."""
        # Beside the buffer, which lies on the device and would have to be waited for.
        self._num_trained = feature_frames
        self.clock.batches = feature_frames / (100.0 * self.config.ref_duration)


def _go_on(encoder: nn.Module, _: object) -> None:
    """The schedules go on where the loaded weights were."""
    assert isinstance(encoder, Zipformer2Encoder)
    encoder.set_clock(int(encoder.trained_frames))


def _silenced(features_BTF: Tensor, feature_lens_B: Tensor) -> Tensor:
    """Features with silence behind the end of each utterance."""
    frames_T = torch.arange(features_BTF.shape[1], device=features_BTF.device)
    beyond_BT = frames_T >= feature_lens_B[:, None]
    return features_BTF.masked_fill(beyond_BT[:, :, None], SILENCE)


def _widest(outputs: list[Tensor]) -> Tensor:
    """The last stack's channels; where earlier ones have more, the latest of those gives the rest."""
    parts = [outputs[-1]]
    width = parts[0].shape[-1]
    for output in reversed(outputs[:-1]):
        if output.shape[-1] > width:
            parts.append(output[..., width:])
            width = output.shape[-1]
    return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
