"""One experiment: the configuration of every part, composed. A recipe file describes several."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdasr.common.configio import build_config, load_yaml
from kdasr.common.errors import UserError
from kdasr.data.config import DataConfig
from kdasr.distillation.config import TERM_NAMES, ObjectiveConfig, StageConfig
from kdasr.models.transducer.config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.training.config import TrainerConfig


@dataclass
class ExperimentConfig:
    """Everything that determines one system (a teacher, a baseline, a student)."""

    name: str = "experiment"
    seed: int = 1
    contexts: list[Context] = field(default_factory=lambda: [Context.full()])
    """Encoder contexts in training, sampled per batch when there are several. The first one is that of
    validation and decoding."""
    data: DataConfig = field(default_factory=DataConfig)
    model: TransducerConfig = field(default_factory=TransducerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainerConfig = field(default_factory=TrainerConfig)
    stages: list[StageConfig] = field(default_factory=lambda: [StageConfig()])


def load_experiment(
    path: Path, system: str | None = None, overrides: tuple[str, ...] = ()
) -> ExperimentConfig:
    """Read one system of a recipe file.

    A recipe file holds the options that all systems share and, under `systems`, what each of them
    changes. `overrides` are dotted assignments such as `training.optim.learning_rate=5e-4`.

    Raises:
        UserError: no such file or system, an unknown key, a wrong type, an unknown loss term.
    """
    shared = load_yaml(path)
    systems = shared.pop("systems", {})
    layer: dict[str, Any] = {}
    if system is not None:
        if system not in systems:
            raise UserError(f"{path}: no system '{system}'; there are: {', '.join(systems) or 'none'}")
        layer = {"name": system, **(systems[system] or {})}
    elif systems:
        raise UserError(f"{path}: name one of its systems: {', '.join(systems)}")
    config = build_config(ExperimentConfig, shared, layer, overrides=overrides, source=str(path))
    check_experiment(config, source=str(path))
    return config


def check_experiment(config: ExperimentConfig, source: str) -> None:
    """Refuse what the types allow and training could not run.

    Raises:
        UserError: naming the option.
    """
    if not config.stages:
        raise UserError(f"{source}: 'stages' is empty")
    names = [stage.name for stage in config.stages]
    if len(set(names)) != len(names):
        raise UserError(f"{source}: stage names repeat: {names}")
    for stage in config.stages:
        unknown = set(stage.loss_weights) - set(TERM_NAMES)
        if unknown or not stage.loss_weights:
            raise UserError(
                f"{source}: stage '{stage.name}': loss_weights {sorted(stage.loss_weights)}; "
                f"known terms: {', '.join(TERM_NAMES)}"
            )
        needs_teacher = {"hidden_mse", "output_kl"} & set(stage.loss_weights)
        if needs_teacher and not config.objective.teacher:
            raise UserError(
                f"{source}: stage '{stage.name}' has {sorted(needs_teacher)} but no objective.teacher"
            )


def option_names() -> list[str]:
    """Top-level options of an experiment, for messages and documentation."""
    return [entry.name for entry in fields(ExperimentConfig)]
