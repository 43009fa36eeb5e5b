"""Model and objective behind one forward, so that Fabric and DDP wrap one module."""

import random
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from kdasr.data.batch import Batch
from kdasr.data.text_loader import TextBatch
from kdasr.distillation.objective import Losses
from kdasr.models.language_model import TransformerLanguageModel
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context

AnyBatch = Batch | TextBatch
AnyModel = Transducer | TransformerLanguageModel


class Denominators(NamedTuple):
    """What the losses of a joint batch are divided by: all batches of an optimizer step, on all processes.

    DDP averages the gradients of its processes, so each of them divides by the sum over all processes
    *divided by their number*: then the average is the gradient of the joint batch.
    """

    frames: float
    """Encoder frames: `rnnt`, `ctc` and `path_kl` are nats per frame. Of text: what is predicted, pieces and
    ends."""
    utterances: float
    """`hidden_mse` and `output_kl` are means over utterances."""

    @classmethod
    def of(cls, batches: Sequence[AnyBatch], model: AnyModel) -> "Denominators":
        """Those of some batches of this process, of which `model` makes so many frames."""
        frames = sum(_num_frames(batch, model) for batch in batches)
        return cls(float(frames), float(sum(len(batch) for batch in batches)))


def _num_frames(batch: AnyBatch, model: AnyModel) -> int:
    if isinstance(batch, TextBatch):
        return batch.num_predictions
    assert isinstance(model, Transducer)
    return int(model.geometry.num_frames(batch.feature_lens_B).sum())


class StepInput:
    """What one forward is computed on.

    A plain class on purpose: Fabric and DDP look into dataclasses and tuples, and would cast raw log-mel
    features to bfloat16 and move lengths to the GPU.
    """

    def __init__(
        self,
        batch: AnyBatch,
        *,
        loss_weights: dict[str, float],
        context: Context,
        step: int,
        denominators: Denominators,
    ) -> None:
        self.batch = batch
        self.loss_weights = loss_weights
        self.context = context
        self.step = step
        self.denominators = denominators


class TrainingModule(nn.Module):
    """The trained parts: the model, and the objective's own parameters (projections between widths).

    An objective takes what `forward` below gives it and returns `Losses`.
    """

    def __init__(self, model: AnyModel, objective: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, inputs: StepInput) -> Losses:
        """The losses of a batch; only their total carries a gradient."""
        return self.objective(
            self.model,
            inputs.batch,
            loss_weights=inputs.loss_weights,
            context=inputs.context,
            step=inputs.step,
            frames=inputs.denominators.frames,
            utterances=inputs.denominators.utterances,
        )


def sample_context(contexts: Sequence[Context], seed: int, step: int) -> Context:
    """The context of an optimizer step: a function of seed and step alone, the same on every process."""
    if len(contexts) == 1:
        return contexts[0]
    return random.Random(f"context {seed} {step}").choice(list(contexts))
