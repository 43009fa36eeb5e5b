"""What a trainer trains: a model, its objective, its data, and where results go."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lightning_fabric import Fabric
from torch import nn

from kdasr.data.pace import Pace
from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import StepObjective, TrainBatch
from kdasr.nn.context import Context, ContextChoice
from kdasr.training.resume import TeacherFile
from kdasr.training.teacher_lead import Lead
from kdasr.training.training_config import TrainerConfig
from kdasr.training.validation import Validate, Validation


class BatchSource(Protocol):
    """An endless stream of batches that can be put back to where it was."""

    def __next__(self) -> TrainBatch: ...

    def __iter__(self) -> Iterator[TrainBatch]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def pace(self) -> Pace: ...


@dataclass(kw_only=True)
class System:
    """What is trained, on what, and where the results go."""

    name: str
    exp_dir: Path
    seed: int
    contexts: list[Context]
    """Those of training; the first one is that of validation and decoding."""
    stages: list[StageConfig]
    config: TrainerConfig
    model: nn.Module
    """With its sizes, a dataclass, as `config`."""
    objective: StepObjective
    tokenizer: Tokenizer
    train_batches: BatchSource
    valid_batches: Callable[[], Iterable[TrainBatch]]
    validate: Validate
    at_start: Callable[[Fabric], Lead | None] | None = None
    """What else is to happen once the model has the weights that training starts from; says how far its
    teacher is ahead, if the student is to go on alone once it has passed it."""
    after_validation: Callable[[Fabric, Validation, nn.Module], None] | None = None
    """What else is to happen at a validation, before the checkpoint; gets the model that was measured."""
    context_choice: ContextChoice = field(default_factory=ContextChoice)
    """What training draws contexts from; `contexts` are then those of validation, each of them."""
    batches_at_once: int = 1
    """Batches that are taken wherever a step takes one: more where kinds of batches share a step."""
    teachers: Sequence[TeacherFile] = ()
    """The checkpoints that the objective's teachers came from."""
