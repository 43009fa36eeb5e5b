"""What is measured on dev batches, for any kind of system."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from lightning_fabric import Fabric

from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.step import TrainBatch
from kdasr.nn.context import Context
from kdasr.training.module import TrainingModule
from kdasr.training.resume import gather, rng_state, set_rng_state

WARM = 10**9
"""A step after every warm-up: dev losses stay comparable from the first validation to the last."""


@dataclass(frozen=True)
class Validation:
    """Results on the dev parts."""

    total: float
    """The stage's weighted sum of the terms."""
    terms: dict[str, float]
    scores: dict[str, float]
    """What else was measured (`wer` and `cer` in percent, `cer` first where words are not separated by
    spaces; or `ppl` and `word_ppl`); the first one says which checkpoint is the best, the lower the
    better."""
    under: dict[str, dict[str, float]] = field(default_factory=dict)
    """The scores by context, where there are several."""

    @property
    def criterion(self) -> float:
        """The first score."""
        return next(iter(self.scores.values()))


class Validate(Protocol):
    """How the systems of one kind are measured on dev batches, such as
    `kdasr.training.transducer.validate_transducer`."""

    def __call__(
        self,
        fabric: Fabric,
        module: TrainingModule,
        batches: Iterable[TrainBatch],
        tokenizer: Tokenizer,
        context: Context,
        loss_weights: dict[str, float],
        should_stop: Callable[[], bool] = ...,
    ) -> Validation | None: ...


@torch.no_grad()
def sum_over_batches(
    fabric: Fabric,
    module: TrainingModule,
    batches: Iterable[TrainBatch],
    measure: Callable[[TrainBatch], Mapping[str, float]],
    should_stop: Callable[[], bool],
) -> Mapping[str, float] | None:
    """Add up what `measure` says of each batch, shared out among the processes. Changes no random state.

    Returns:
        The sums, the same on every process; None when `should_stop` said so on the way.
    """
    state = rng_state()
    module.eval()
    sums: Counter[str] = Counter()
    try:
        for batch in islice(batches, fabric.global_rank, None, fabric.world_size):
            if should_stop():
                return None
            sums.update(measure(batch.to(fabric.device)))
    finally:
        module.train()
        set_rng_state(state)
    return _reduce(fabric, sums)


def _reduce(fabric: Fabric, sums: Mapping[str, float]) -> Mapping[str, float]:
    """Add up the sums of all processes; one that had no batch knows no names and adds zeros."""
    if fabric.world_size == 1:
        return sums
    total: Counter[str] = Counter()
    for part in gather(fabric, dict(sums)):
        total.update(part)
    return total
