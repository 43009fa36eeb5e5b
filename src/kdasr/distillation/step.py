"""What one training step hands to an objective and gets from it, for any kind of model and batch."""

# Shapes: B utterances or sentences.

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

from kdasr.nn.context import Context


class TrainBatch(Protocol):
    """Some utterances or sentences; what the trainer knows of them."""

    @property
    def ids(self) -> list[str]:
        """For messages."""
        ...

    @property
    def audio_seconds(self) -> float:
        """Of all of them together; text has none."""
        ...

    @property
    def longest_seconds(self) -> float:
        """Of the longest utterance."""
        ...

    @property
    def longest_pieces(self) -> int:
        """Of the longest transcript or sentence."""
        ...

    @property
    def paired(self) -> bool:
        """False: of the other kind of a training with two kinds of batches, those without transcripts. The
        losses of each kind are divided by their own frames and utterances."""
        ...

    @property
    def max_splits(self) -> int:
        """Into how many parts `split` can divide the batch."""
        ...

    @property
    def smaller_by(self) -> str:
        """The options that, lowered, make batches smaller."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same batch with its large tensors on `device`."""
        ...

    def split(self, count: int) -> Sequence[Self]:
        """Up to `count` parts of whole utterances."""
        ...

    def __len__(self) -> int: ...


class Denominators(NamedTuple):
    """What the losses of a joint batch are divided by: all batches of one kind of an optimizer step, on all
    processes.

    DDP averages the gradients of its processes, so each of them divides by the sum over all processes
    *divided by their number*: then the average is the gradient of the joint batch.
    """

    frames: float
    """Encoder frames, for losses per frame. Of text: what is predicted, pieces and ends."""
    utterances: float
    """For means over utterances."""

    @classmethod
    def total(cls, parts: "Sequence[Denominators]") -> "Denominators":
        """Those of some batches together."""
        return cls(sum(part.frames for part in parts), sum(part.utterances for part in parts))


class StepInput:
    """What one forward is computed on.

    A plain class on purpose: Fabric and DDP look into dataclasses and tuples, and would cast raw log-mel
    features to bfloat16 and move lengths to the GPU.
    """

    def __init__(
        self,
        batch: Any,
        *,
        loss_weights: dict[str, float],
        context: Context,
        step: int,
        denominators: Denominators | None = None,
        unpaired_weights: dict[str, float] | None = None,
        share: float = 1.0,
    ) -> None:
        """
        Args:
            batch: of the kind that the objective takes, on the model's device.
            loss_weights: term name -> weight; a weight of 0 computes the term for the log only.
            context: the student's encoder context.
            step: optimizer steps since the student began from scratch; drives warm-ups.
            denominators: what sums over the batch are divided by; None: the batch's own.
            unpaired_weights: in the place of `loss_weights` for a batch without transcripts; empty or None:
                not said.
            share: frames of the batch by those of the `denominators`.
        """
        self.batch = batch
        self.loss_weights = loss_weights
        self.context = context
        self.step = step
        self.denominators = denominators
        self.unpaired_weights = unpaired_weights or {}
        self.share = share


@dataclass
class Losses:
    """One batch's losses."""

    total: Tensor
    """Scalar: the terms that have a weight, times it."""
    terms: dict[str, Tensor]
    """Detached scalars, each in the unit of its term."""
    per_utterance: dict[str, Tensor]
    """The same before normalization, `(B,)`, detached: to name the utterance whose loss is not finite.
    Infinite values are of utterances that no path fits, which count nothing in `terms`."""
    per_frame: frozenset[str] = field(default_factory=frozenset)
    """Names in `terms` that were divided by frames; the others by utterances."""


class StepObjective(nn.Module, ABC):
    """From a model and a step's input to losses. Its state dict goes into checkpoints."""

    @abstractmethod
    def count(self, batch: Any) -> Denominators:
        """What the losses of a batch are divided by when it stands alone."""

    @abstractmethod
    def forward(self, model: Any, inputs: StepInput) -> Losses:
        """The losses of a batch; only their total carries a gradient."""
