"""Reading a recipe file, which describes several systems: one of them, or what all of them share."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from kdasr.common.configio import Override, build_config, load_yaml, of_sections
from kdasr.common.errors import UserError
from kdasr.data.data_config import DataConfig, TranscriptConfig
from kdasr.experiment.config import (
    AnyExperiment,
    ExperimentConfig,
    LanguageModelExperiment,
    ReportConfig,
    experiment_schema,
    kind_of,
)
from kdasr.experiment.config_checks import check_experiment, check_language_model, check_text


@dataclass
class DataSections:
    """What a recipe file says of the preparation of data: the sections that its systems share."""

    data: DataConfig = field(default_factory=DataConfig)
    text: TranscriptConfig = field(default_factory=TranscriptConfig)


def load_data_sections(path: Path, overrides: Sequence[str] = ()) -> DataSections:
    """Read the sections `data` and `text` that the systems of a recipe file share.

    `overrides` are those of `load_experiment`. Of options of other sections nothing is kept; one of the
    systems must take them, but for those of the section `results`, which is read where it is used.

    Raises:
        UserError: no such file, an unknown key, a wrong type, no such rule.
    """
    names = {entry.name for entry in fields(DataSections)}
    sections = {name: section or {} for name, section in load_yaml(path).items() if name in names}
    own = of_sections(overrides, names)
    config = build_config(DataSections, sections, overrides=own, source=str(path))
    check_text(config.text, str(path))
    read = of_sections(overrides, {*names, "results"})
    if others := [word for word in overrides if word not in read]:
        _check_taken(path, others)
    return config


def _check_taken(path: Path, overrides: Sequence[str]) -> None:
    """Refuse assignments that no system of a recipe file takes, as its first system does."""
    systems = load_yaml(path).get("systems")
    refusal: UserError | None = None
    for system in systems if isinstance(systems, dict) and systems else (None,):
        try:
            _build(path, system, overrides)
        except UserError as error:
            refusal = refusal or error
        else:
            return
    if refusal is not None:
        raise refusal


def load_roles(path: Path) -> ReportConfig:
    """Read the `report` section of a recipe file.

    Raises:
        UserError: no such file, an unknown key, a wrong type.
    """
    return build_config(ReportConfig, load_yaml(path).get("report") or {}, source=f"{path}: report")


def load_experiment(
    path: Path, system: str | None = None, overrides: Sequence[Override] = ()
) -> ExperimentConfig:
    """Read one system of a recipe file.

    A recipe file holds the options that all systems share and, under `systems`, what each of them
    changes. Its section `results` (see `kdasr.study.recipe`) is no part of a system. `overrides` are
    dotted assignments such as `training.optim.learning_rate=5e-4`.

    Raises:
        UserError: no such file or system, an unknown key, a wrong type, an unknown loss term.
    """
    config = build_config(experiment_schema(), *_layers(path, system), overrides=overrides, source=str(path))
    check_experiment(config, source=str(path))
    return config


def load_any_experiment(
    path: Path, system: str | None = None, overrides: Sequence[Override] = ()
) -> AnyExperiment:
    """`load_experiment`, or the language model that the file (or one of its systems) says it describes.

    Raises:
        UserError: see `load_experiment`; also an unknown `kind`.
    """
    config = _build(path, system, overrides)
    if isinstance(config, LanguageModelExperiment):
        check_language_model(config, source=str(path))
    else:
        check_experiment(config, source=str(path))
    return config


def _build(path: Path, system: str | None, overrides: Sequence[Override]) -> AnyExperiment:
    """`load_any_experiment` without its checks of options against each other."""
    layers = _layers(path, system)
    if kind_of(*layers, source=str(path)) is None:
        return build_config(experiment_schema(), *layers, overrides=overrides, source=str(path))
    return build_config(LanguageModelExperiment, *layers, overrides=overrides, source=str(path))


def _layers(path: Path, system: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all systems of a recipe file share, and what one of them changes."""
    shared = load_yaml(path)
    systems = shared.pop("systems", None) or {}
    shared.pop("results", None)
    if not isinstance(systems, dict):
        raise UserError(f"{path}: systems: expected a mapping from names to options")
    layer: dict[str, Any] = {}
    if system is not None:
        if system not in systems:
            raise UserError(
                f"{path}: no system '{system}'; there are: {', '.join(map(str, systems)) or 'none'}"
            )
        changes = systems[system] or {}
        if not isinstance(changes, dict):
            raise UserError(f"{path}: systems.{system}: expected a mapping of options")
        layer = {"name": system, **changes}
    elif systems:
        raise UserError(f"{path}: name one of its systems: {', '.join(map(str, systems))}")
    return shared, layer
