"""What is measured on dev batches, for any kind of system."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class Shareable(Protocol):
    """Batches of which a process can make its own share without making the others, such as
    `kdasr.data.valid_batches.ValidBatches`."""

    def share(self, rank: int, world_size: int) -> Iterable[tuple[int, TrainBatch]]:
        """Every `world_size`-th batch, each with its number among all."""
        ...


def share_of(batches: Iterable[TrainBatch], rank: int, world_size: int) -> Iterable[tuple[int, TrainBatch]]:
    """The batches of one of several processes, each with its number among all."""
    if isinstance(batches, Shareable):
        return batches.share(rank, world_size)
    return islice(enumerate(batches), rank, None, world_size)


@torch.no_grad()
def sum_over_batches(
    fabric: Fabric,
    module: TrainingModule,
    batches: Iterable[TrainBatch],
    measure: Callable[[TrainBatch], Mapping[str, float]],
    should_stop: Callable[[], bool],
) -> Mapping[str, float] | None:
    """Add up what `measure` says of each batch, shared out among the processes. Changes no random state.

    The sums are added in the order of the batches, whichever process had them: another number of processes
    gives the same bits.

    Returns:
        The sums, the same on every process; None on all when `should_stop` said so on one of them.
    """
    state = rng_state()
    module.eval()
    measured: list[tuple[int, dict[str, float]]] = []
    stopped = False
    try:
        for number, batch in share_of(batches, fabric.global_rank, fabric.world_size):
            stopped = stopped or should_stop()
            if stopped:
                break
            measured.append((number, dict(measure(batch.to(fabric.device)))))
    finally:
        module.train()
        set_rng_state(state)
    parts = gather(fabric, {"measured": measured, "stopped": stopped})
    if any(part["stopped"] for part in parts):
        return None
    everybody = [item for part in parts for item in part["measured"]]
    total: Counter[str] = Counter()
    for _, sums in sorted(everybody, key=lambda item: item[0]):
        total.update(sums)
    return total
