"""Validation of a system: its dev parts, under each context that it is measured under."""

from collections.abc import Callable
from dataclasses import replace

from lightning_fabric import Fabric

from kdasr.distillation.step import TrainBatch
from kdasr.nn.context import Context
from kdasr.training.module import TrainingModule
from kdasr.training.step_errors import DevPieces, naming_batches
from kdasr.training.system import System
from kdasr.training.validation import Validation


def validate_system(
    system: System,
    module: TrainingModule,
    loss_weights: dict[str, float],
    fabric: Fabric,
    should_stop: Callable[[], bool],
) -> Validation | None:
    """Results on the dev parts; None when a stop was asked for on the way.

    Under the first context, and the scores under every other one of a system that draws its contexts.

    Args:
        system: what is trained.
        module: the model that is measured, with the objective.
        loss_weights: of the dev loss.
        fabric: the processes; all of them call this.
        should_stop: asked between batches.

    Raises:
        StepError: no memory for a batch; names it.
    """

    def under(context: Context) -> Validation | None:
        current: list[TrainBatch] = []
        with naming_batches(current, system.config, "validation"):
            return system.validate(
                fabric,
                module,
                DevPieces(system.valid_batches(), system.config.split_batches, current),
                system.tokenizer,
                context,
                loss_weights,
                should_stop=should_stop,
            )

    first, *others = system.contexts
    found = under(first)
    if found is None or not system.context_choice or not others:
        return found
    scores = {str(first): found.scores}
    for context in others:
        measured = under(context)
        if measured is None:
            return None
        scores[str(context)] = measured.scores
    return replace(found, under=scores)
