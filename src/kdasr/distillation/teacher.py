"""What can teach: a protocol, and a frozen transducer."""

# Shapes: B utterances, T the teacher's frames, F frames of all, S pieces, D width, N lattice nodes,
# V classes.

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.decoding.beam import beam_search
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.lattice import joint_of
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.models.encoders.base import EncoderOutput, Geometry
from kdasr.models.joiner import TANH, Joiner
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context


class TeacherFrames(NamedTuple):
    """Frames of a batch at some rate. Those beyond the lengths hold anything finite."""

    values_BTD: Tensor
    lens_B: Tensor
    """Valid frames, int64, on the CPU."""
    frame_seconds: float


class TeacherOutput(NamedTuple):
    """What a teacher says of one batch."""

    hidden: Sequence[TeacherFrames]
    """Each hidden layer, with its rate."""
    lens_B: Tensor
    """Valid frames of its output, int64, on the CPU."""
    num_frames: int
    """Frames of its output per utterance, padding included: T."""
    frame_seconds: float
    """Duration of a frame of its output."""
    nodes: Callable[[], NodeLogits]
    """Gives its logits at nodes: rows of its flattened (B, T) frames and of the flattened (B, S + 1) states.
    Not called where no term asks for them."""


class Teacher(Protocol):
    """A trained model that only answers: no dropout, no gradient.

    Frames may be more or fewer than the student's: `kdasr.distillation.alignment` puts both together.
    """

    @property
    def vocab_size(self) -> int:
        """Its pieces, blank included; the student's are the same."""
        ...

    @property
    def num_features(self) -> int:
        """Features per frame; the student hears the same."""
        ...

    @property
    def geometry(self) -> Geometry:
        """Its frame rate, and width and rate of each hidden layer that it shows."""
        ...

    def encode(self, batch: Batch) -> TeacherOutput:
        """What it says of a batch, on the batch's device."""
        ...


@runtime_checkable
class Transcriber(Protocol):
    """A teacher that can also say what it hears, for batches without transcripts."""

    def transcribe(self, batch: Batch, search: BeamOptions) -> list[list[int]]:
        """The pieces of the best hypothesis of each utterance; no blanks. A beam of 1 is greedy search."""
        ...


class TransducerTeacher:
    """A transducer of this toolkit, in a context of its own.

    A plain class on purpose: as an attribute of a module it is neither trained, nor saved, nor synchronized
    between processes. The model is frozen in place, so it must not be the one that trains.
    """

    def __init__(self, model: Transducer, context: Context) -> None:
        self.model = model.eval().requires_grad_(False)
        self.context = context

    @property
    def config(self) -> TransducerConfig:
        """The model's sizes."""
        return self.model.config

    @property
    def vocab_size(self) -> int:
        """See `Teacher`."""
        return self.config.vocab_size

    @property
    def num_features(self) -> int:
        """See `Teacher`."""
        return self.config.num_features

    @property
    def geometry(self) -> Geometry:
        """See `Teacher`."""
        return self.model.geometry

    def to(self, device: torch.device | str) -> "TransducerTeacher":
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, batch: Batch) -> TeacherOutput:
        """Encoder layers of a batch, in the teacher's own context, on the batch's device."""
        encoded = self._encoded(batch)
        encoded_BTD, lens_B, hidden = encoded.encoded_BTD, encoded.lens_B, []
        for layer, layer_BTD in zip(self.geometry.hidden, encoded.hidden, strict=True):
            # As much audio as the encoded frames cover.
            layer_lens_B = (lens_B * self.geometry.stride // layer.stride).clamp(max=layer_BTD.shape[1])
            hidden.append(TeacherFrames(layer_BTD, layer_lens_B, layer.frame_seconds))
        nodes = partial(self._nodes, encoded_BTD, batch)
        return TeacherOutput(hidden, lens_B, encoded_BTD.shape[1], self.geometry.frame_seconds, nodes)

    @torch.no_grad()
    def transcribe(self, batch: Batch, search: BeamOptions) -> list[list[int]]:
        """See `Transcriber`."""
        encoded = self._encoded(batch)
        heard = encoded.encoded_BTD, encoded.lens_B
        if search.beam > 1:
            return [listed[0].tokens for listed in beam_search(self.model, *heard, search)]
        found = greedy_search(self.model, *heard, blank_penalty=search.blank_penalty)
        return [hypothesis.tokens for hypothesis in found]

    def _encoded(self, batch: Batch) -> EncoderOutput:
        device = batch.features_BTF.device
        if batch.kind != self.geometry.features:
            raise UserError(f"the teacher hears {self.geometry.features} features, but this batch has none")
        if next(self.model.parameters()).device != device:
            self.to(device)
        return self.model.encode(batch.features_BTF, batch.feature_lens_B, self.context)

    @torch.no_grad()
    def _nodes(self, encoded_BTD: Tensor, batch: Batch) -> NodeLogits:
        """The joiner and its inputs, projected."""
        predicted_BSD = self.model.predictor(batch.tokens_BS, batch.history_BH)
        joiner = self.model.joiner
        if joiner.activation == TANH:
            return joint_of(self.model, encoded_BTD, predicted_BSD)
        am_FD, lm_SD = joiner.project_encoder(encoded_BTD), joiner.project_predictor(predicted_BSD)
        return JoinerNodes(joiner, am_FD.flatten(0, 1), lm_SD.flatten(0, 1))


class JoinerNodes(NamedTuple):
    """Logits at nodes of any joiner; a `NodeLogits`."""

    joiner: Joiner
    am_FD: Tensor
    """Projected frames of all utterances."""
    lm_SD: Tensor
    """Projected predictions of all utterances."""

    @torch.no_grad()
    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """See `NodeLogits`."""
        # The losses run without autocast, under which the projections were made in a half type.
        made, weights = self.am_FD.dtype, self.joiner.output.weight.dtype
        with torch.autocast(self.am_FD.device.type, made, enabled=made != weights):
            return self.joiner(self.am_FD[frames_N], self.lm_SD[states_N]).float()
