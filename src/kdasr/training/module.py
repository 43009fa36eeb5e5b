"""Model and objective behind one forward, so that Fabric and DDP wrap one module."""

from collections.abc import Sequence

from torch import nn

from kdasr.distillation.step import Denominators, Losses, StepInput, StepObjective, TrainBatch
from kdasr.models.encoders.base import Encoder


class TrainingModule(nn.Module):
    """The trained parts: the model, and the objective's own parameters (projections between widths)."""

    def __init__(self, model: nn.Module, objective: StepObjective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, inputs: StepInput) -> Losses:
        """The losses of a batch; only their total carries a gradient."""
        if isinstance(encoder := getattr(self.model, "encoder", None), Encoder):
            encoder.share = inputs.share
        return self.objective(self.model, inputs)

    def count(self, batches: Sequence[TrainBatch]) -> Denominators:
        """What the losses of some batches of this process are divided by."""
        return Denominators.total([self.objective.count(batch) for batch in batches])
