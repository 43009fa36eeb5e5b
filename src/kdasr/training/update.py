"""One optimizer step: the gradient of a joint batch, and what is done with it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import Denominators, StepInput, TrainBatch
from kdasr.nn.context import Context
from kdasr.training.module import TrainingModule
from kdasr.training.optim import (
    build_optimizer,
    gradient_norm,
    scheduled_learning_rate,
    set_learning_rate,
)
from kdasr.training.training_config import OptimConfig


@dataclass(frozen=True)
class StepResult:
    """Of the batches of one optimizer step on this process; scalars on the device."""

    total: Tensor
    terms: dict[str, Tensor]
    gradient_norm: Tensor
    """Of the joint gradient, before clipping; the same on every process."""
    per_utterance: list[dict[str, Tensor]]
    """Of each batch: term -> value of each utterance."""

    def num_lost(self) -> Tensor:
        """How many utterances no path fits."""
        return torch.stack([_is_lost(terms).sum() for terms in self.per_utterance]).sum()

    def bad_terms(self) -> list[str]:
        """Terms that are not finite."""
        return [name for name, value in self.terms.items() if not bool(torch.isfinite(value))]

    def bad_ids(self, batches: Sequence[TrainBatch]) -> list[str]:
        """Utterances with a term that is not finite."""
        ids = []
        for batch, terms in zip(batches, self.per_utterance, strict=True):
            values = torch.stack([value_B.double() for value_B in terms.values()]).sum(dim=0).tolist()
            ids += [name for name, value in zip(batch.ids, values, strict=True) if not math.isfinite(value)]
        return ids


@dataclass(frozen=True)
class Agreement:
    """What all processes know of a step."""

    finite: bool
    """Loss and gradient are finite everywhere."""
    stop: bool
    """Somebody was asked to stop."""
    save: bool
    """The first process says that it is time to."""
    num_lost: int
    """Utterances that no path fits, of all processes together."""
    num_utterances: int


class Updater:
    """The optimizer of one stage and the module that it updates."""

    def __init__(
        self, fabric: Fabric, module: TrainingModule, stage: StageConfig, config: OptimConfig
    ) -> None:
        self._fabric = fabric
        self._stage = stage
        self._config = config
        self._own = module
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._module, self.optimizer = fabric.setup(
            module, build_optimizer(module.named_parameters(), config)
        )

    def gradients(
        self, batches: Sequence[TrainBatch], context: Context, step: int, loss_weights: dict[str, float]
    ) -> StepResult:
        """Compute the gradient of the joint batch: all of `batches`, on all processes.

        Args:
            batches: `accumulate` of them, or as many of each kind as a step has; on all processes the same
                kinds.
            context: of the student's encoder.
            step: for the warm-up of the loss.
            loss_weights: of each term on batches with transcripts; the stage's, or some of them.
        """
        denominators = {
            kind: joint_denominators(self._fabric, self._own.count(some))
            for kind in (True, False)
            if (some := [batch for batch in batches if batch.paired is kind])
        }
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        per_utterance: list[dict[str, Tensor]] = []
        for number, batch in enumerate(batches, start=1):
            frames = denominators[batch.paired].frames
            inputs = StepInput(
                batch.to(self._fabric.device),
                loss_weights=loss_weights if batch.paired else self._stage.loss_weights,
                context=context,
                step=step,
                denominators=denominators[batch.paired],
                unpaired_weights=self._stage.unpaired_weights,
                share=self._own.count([batch]).frames / frames if frames else 1.0,
            )
            with self._fabric.no_backward_sync(self._module, enabled=number < len(batches)):
                losses = self._module(inputs)
                self._fabric.backward(losses.total)
            for name, value in {**losses.terms, "total": losses.total.detach()}.items():
                sums[name] = sums[name] + value if name in sums else value
            per_utterance.append(losses.per_utterance)
        return StepResult(sums.pop("total"), sums, gradient_norm(self._parameters), per_utterance)

    def agree(self, result: StepResult, *, stop_asked: bool, save_due: bool) -> Agreement:
        """Tell all processes what each of them knows: the same on all of them."""
        bad = ~(torch.isfinite(result.total) & torch.isfinite(result.gradient_norm))
        utterances = sum(len(next(iter(terms.values()))) for terms in result.per_utterance)
        due = save_due and self._fabric.is_global_zero
        own = torch.tensor([stop_asked, due, utterances], device=bad.device)
        flags = torch.stack([bad, result.num_lost(), *own]).float()
        if self._fabric.world_size > 1:
            reduced = self._fabric.all_reduce(flags, reduce_op="sum")
            assert isinstance(reduced, Tensor)
            flags = reduced
        num_bad, num_lost, num_stops, num_due, num_utterances = map(round, flags.tolist())
        return Agreement(num_bad == 0, num_stops > 0, num_due > 0, num_lost, num_utterances)

    def apply(self, result: StepResult, stage_step: int) -> float:
        """Clip the gradient and step; returns the learning rate that was used."""
        learning_rate = scheduled_learning_rate(self._config, self._stage, stage_step)
        set_learning_rate(self.optimizer, learning_rate)
        if self._config.optimizer != "scaled-adam":  # which clips by itself
            nn.utils.clip_grads_with_norm_(self._parameters, self._config.clip_norm, result.gradient_norm)
        self.optimizer.step()
        return learning_rate

    def discard(self) -> None:
        """Drop the gradient; weights and optimizer state stay as they are."""
        self.optimizer.zero_grad(set_to_none=True)


def _is_lost(terms: dict[str, Tensor]) -> Tensor:
    """Which utterances have an infinite term, `(B,)`."""
    return torch.stack([value_B == torch.inf for value_B in terms.values()]).any(dim=0)


def joint_denominators(fabric: Fabric, own: Denominators) -> Denominators:
    """The sums of all processes' `own`, divided by the number of processes: see `Denominators`."""
    if fabric.world_size == 1:
        return own
    mean = fabric.all_reduce(torch.tensor(own, dtype=torch.float64, device=fabric.device), reduce_op="mean")
    assert isinstance(mean, Tensor)
    return Denominators(*mean.tolist())
