"""One experiment: the configuration of every part, composed. A recipe file describes several."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from kdasr.common.choices import schema_for
from kdasr.common.configio import Override, build_config, config_to_dict, load_yaml, save_yaml
from kdasr.common.errors import UserError
from kdasr.common.ranges import MAY_CHANGE, Items, between, declared_at, declared_fields
from kdasr.data.data_config import DataConfig, TranscriptConfig
from kdasr.data.text_rules import check_rule
from kdasr.distillation.objective_config import LENGTHS, StageConfig, UnpairedConfig
from kdasr.distillation.terms import ObjectiveConfig, objective_schema
from kdasr.distillation.terms.base import Need, known_terms, needing
from kdasr.experiment.unpaired_checks import check_unpaired
from kdasr.language_model.model import LanguageModelConfig
from kdasr.language_model.module import TERM as LM_TERM
from kdasr.language_model.text import TextConfig
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context, ContextChoice
from kdasr.training.training_config import TrainerConfig

DEFAULT_LOSS_WEIGHTS = {"rnnt": 1.0, "ctc": 0.3}
CONFIG = "config.yaml"
"""Of an experiment folder: the configuration of its system."""
EVALUATE = "evaluate"
"""Of `contexts`, where training draws every part: what is validated and decoded."""
LANGUAGE_MODEL = "language_model"
"""The `kind` of a language model. A transducer has none."""


@dataclass
class ReportConfig:
    """Which systems of a recipe play which part in a report: its section `report`, shared by all systems."""

    teacher: Annotated[str, MAY_CHANGE] = ""
    """The system that hears the whole utterance, from which the others learn."""
    baselines: Annotated[list[str], Items(), MAY_CHANGE] = field(default_factory=list)
    """The systems that every other student is compared with, and each of them with those before it."""
    method: Annotated[str, MAY_CHANGE] = ""
    """The system that the recipe is about."""


@dataclass
class ExperimentConfig:
    """Everything that determines one system (a teacher, a baseline, a student)."""

    name: str = "experiment"
    """What the experiment is called; the name of the system unless it is given."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 1
    """Of all that is drawn at random: weights, order, masks, joins."""
    contexts: Annotated[list[Context], Items(at_least=1, unique=False)] = field(
        default_factory=lambda: [Context.full()]
    )
    """Encoder contexts in training, sampled per batch when there are several. The first one is that of
    validation and decoding. The other form, `{left: [...], chunk: [...], right: [...], full_probability: p,
    evaluate: [...]}`, draws every part by itself (`context_choice`)."""
    context_choice: ContextChoice = field(default_factory=ContextChoice)
    """What training draws contexts from where `contexts` has its other form. `contexts` are then those of
    validation and decoding: `evaluate`, else the first value of each part."""
    data: DataConfig = field(default_factory=DataConfig)
    text: TranscriptConfig = field(default_factory=TranscriptConfig)
    model: TransducerConfig = field(default_factory=TransducerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    unpaired: UnpairedConfig = field(default_factory=UnpairedConfig)
    training: TrainerConfig = field(default_factory=TrainerConfig)
    stages: Annotated[list[StageConfig], Items(at_least=1, unique=False)] = field(
        default_factory=lambda: [StageConfig(num_steps=1000)]
    )
    report: Annotated[ReportConfig, MAY_CHANGE] = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        # Not a default of the field: OmegaConf would merge a stage's weights into it.
        for stage in self.stages:
            stage.loss_weights = stage.loss_weights or dict(DEFAULT_LOSS_WEIGHTS)

    @classmethod
    def in_full(cls, layer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A layer of options in which `contexts` is a list.

        Raises:
            UserError: an unknown part of the other form.
        """
        contexts = layer.get("contexts")
        if isinstance(contexts, Mapping):
            return _with_choice(layer, contexts)
        if contexts is None or "context_choice" in layer:
            return layer
        return {**layer, "context_choice": asdict(ContextChoice())}


def _with_choice(layer: Mapping[str, Any], contexts: Mapping[str, Any]) -> dict[str, Any]:
    known = [entry.name for entry in fields(ContextChoice)]
    for name in contexts:
        if name not in (*known, EVALUATE):
            raise UserError(f"contexts: no option '{name}'; there are: {', '.join((*known, EVALUATE))}")
    choice = {name: value for name, value in contexts.items() if name != EVALUATE}
    written = {name: value for name, value in layer.items() if name != "contexts"}
    written["context_choice"] = choice
    if EVALUATE in contexts:
        written["contexts"] = contexts[EVALUATE]
    elif all(isinstance(choice.get(name), list) and choice[name] for name in ("left", "chunk")):
        first = {name: choice[name][0] for name in ("left", "chunk")}
        right = choice.get("right")
        written["contexts"] = [{**first, "right": right[0] if isinstance(right, list) and right else 0}]
    return written


def experiment_schema() -> type[ExperimentConfig]:
    """`ExperimentConfig`; with the settings of terms that were registered since, a subclass of it."""
    objective = objective_schema()
    return ExperimentConfig if objective is ObjectiveConfig else _experiment_schema(objective)  # type: ignore[arg-type]


@cache
def _experiment_schema(objective: type) -> type[ExperimentConfig]:
    entry = ("objective", objective, field(default_factory=objective))
    return make_dataclass(
        "ExperimentConfig", [entry], bases=(ExperimentConfig,), namespace={"__module__": __name__}
    )


@dataclass
class LanguageModelExperiment:
    """Everything that determines a language model."""

    kind: str = LANGUAGE_MODEL
    name: str = "lm"
    seed: Annotated[int, between(0, 2**32 - 1)] = 1
    data: TextConfig = field(default_factory=TextConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    training: TrainerConfig = field(default_factory=TrainerConfig)
    stages: Annotated[list[StageConfig], Items(at_least=1, unique=False)] = field(
        default_factory=lambda: [StageConfig(num_steps=1000)]
    )

    def __post_init__(self) -> None:
        for stage in self.stages:
            stage.loss_weights = stage.loss_weights or {LM_TERM: 1.0}


AnyExperiment = ExperimentConfig | LanguageModelExperiment


def load_data_config(path: Path) -> DataConfig:
    """Read the `data` section that the systems of a recipe file share.

    Raises:
        UserError: no such file, an unknown key, a wrong type.
    """
    section = load_yaml(path).get("data") or {}
    return build_config(DataConfig, section, source=f"{path}: data")


def load_roles(path: Path) -> ReportConfig:
    """Read the `report` section of a recipe file.

    Raises:
        UserError: no such file, an unknown key, a wrong type.
    """
    return build_config(ReportConfig, load_yaml(path).get("report") or {}, source=f"{path}: report")


def load_text_config(path: Path) -> TranscriptConfig:
    """Read the `text` section that the systems of a recipe file share.

    Raises:
        UserError: no such file, an unknown key, a wrong type, no such rule.
    """
    section = load_yaml(path).get("text") or {}
    config = build_config(TranscriptConfig, section, source=f"{path}: text")
    _check_text(config, str(path))
    return config


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
    layers = _layers(path, system)
    if _kind(*layers, source=str(path)) is None:
        return load_experiment(path, system, overrides)
    config = build_config(LanguageModelExperiment, *layers, overrides=overrides, source=str(path))
    _check_language_model(config, source=str(path))
    return config


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


def _kind(*layers: Mapping[str, Any], source: str) -> str | None:
    kinds = [layer["kind"] for layer in layers if "kind" in layer]
    if kinds and kinds[-1] != LANGUAGE_MODEL:
        raise UserError(f"{source}: kind: '{kinds[-1]}'; known: '{LANGUAGE_MODEL}'")
    return kinds[-1] if kinds else None


def check_experiment(config: ExperimentConfig, source: str) -> None:
    """Refuse what the types allow and training could not run.

    Raises:
        UserError: naming the option.
    """
    _check_stages(config.stages, list(known_terms()), source)
    _check_text(config.text, source)
    choice = config.context_choice
    if bool(choice.left) != bool(choice.chunk) or (choice.full_probability > 0.0 and not choice):
        raise UserError(f"{source}: contexts: expected both left and chunk to draw from: {choice}")
    for context in (*config.contexts, *choice.all()):
        try:
            config.model.encoder.check_context(context)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    for stage in config.stages:
        needs_teacher = needing(Need.TEACHER, stage.loss_weights)
        if needs_teacher and not config.objective.teacher:
            raise UserError(f"{source}: stage '{stage.name}' has {needs_teacher} but no objective.teacher")
        copies = needing(Need.SECOND_MASKS, stage.loss_weights)
        if copies and any(needing(Need.TEACHER, other.loss_weights) for other in config.stages):
            raise UserError(
                f"{source}: stage '{stage.name}' has {copies}, which are not for students of a "
                "teacher: batches hold one copy more, the teacher's or the second one"
            )
        if stage.plateau_patience > 0 and "hidden_mse" not in stage.loss_weights:
            raise UserError(
                f"{source}: stage '{stage.name}' has plateau_patience, which watches the dev hidden_mse, "
                "but no hidden_mse in its loss_weights"
            )
    check_unpaired(config.stages, config.unpaired, has_teacher=bool(config.objective.teacher), source=source)
    _check_lengths(config.stages, source)


def _check_text(config: TranscriptConfig, source: str) -> None:
    if config.normalize is not None:
        check_rule(config.normalize, f"{source}: text.normalize")


def _check_language_model(config: LanguageModelExperiment, source: str) -> None:
    _check_stages(config.stages, (LM_TERM,), source)
    for stage in config.stages:
        if stage.plateau_patience > 0:
            raise UserError(f"{source}: stage '{stage.name}' has plateau_patience, which is for hidden_mse")
        if stage.unpaired_weights:
            raise UserError(f"{source}: stage '{stage.name}' has unpaired_weights, which are for speech")
    _check_lengths(config.stages, source)


def _check_stages(stages: list[StageConfig], terms: Sequence[str], source: str) -> None:
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise UserError(f"{source}: stage names repeat: {names}")
    for stage in stages:
        for name in ("loss_weights", "unpaired_weights"):
            weights = getattr(stage, name)
            if set(weights) - set(terms):
                raise UserError(
                    f"{source}: stage '{stage.name}': {name} {sorted(weights)}; "
                    f"known terms: {', '.join(terms)}"
                )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", stage.name):
            raise UserError(f"{source}: stage name '{stage.name}' must be letters, digits, '.', '_' and '-'")


def _check_lengths(stages: list[StageConfig], source: str) -> None:
    """Every stage says in one way how long it is, and in one how long its warm-up is."""
    for stage in stages:
        if len(stage.length) != 1:
            given = ", ".join(f"{name}: {value:g}" for name, value in stage.length.items()) or "none of them"
            raise UserError(
                f"{source}: stage '{stage.name}': expected one of {', '.join(LENGTHS)}, found {given}"
            )
        if stage.warmup_steps is not None and stage.warmup_hours is not None:
            raise UserError(f"{source}: stage '{stage.name}': warmup_steps and warmup_hours: give one")


class Difference(NamedTuple):
    """An option in which two configurations differ."""

    key: str
    """Its dotted name."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def claim_folder(config: AnyExperiment, exp_dir: Path) -> list[Difference]:
    """Make `exp_dir` the folder of this configuration, or check that it already is.

    Returns:
        Options in which the run began otherwise and that change nothing of the model (`MAY_CHANGE`, and
        `MAY_MOVE` if the same data and models lie there), or make a stage longer that no other has followed
        yet. The file is not changed.

    Raises:
        UserError: it holds a run of another configuration; names the first option that differs.
    """
    if not (exp_dir / CONFIG).is_file():
        save_experiment(config, exp_dir)
        return []
    saved = load_saved_experiment(exp_dir)
    found = list(differences(config_to_dict(saved), config_to_dict(config)))
    for key, old, new in found:
        free = type(saved) is type(config) and declared_at(type(config), key).may_change
        if not free and not _is_longer(exp_dir, key, old, new):
            raise UserError(
                f"{exp_dir} holds a run with {key}: {old}, this one has {key}: {new}, another model. "
                "Give another --exp, or remove that folder."
            )
    return found


def _is_longer(exp_dir: Path, key: str, old: Any, new: Any) -> bool:
    """Whether an option gives more steps to a stage that none has followed yet."""
    name = re.fullmatch(r"stages\.(\d+)\.num_steps", key)
    if name is None or not isinstance(old, int) or not isinstance(new, int) or new < old:
        return False
    from kdasr.training.resume import saved_progress  # brings torch and Fabric, which few commands need

    return int(name[1]) >= saved_progress(exp_dir).stage


def save_experiment(config: AnyExperiment, exp_dir: Path) -> None:
    """Write the configuration of a system into its folder."""
    save_yaml(config, exp_dir / CONFIG)


def differences(old: Any, new: Any, key: str = "") -> Iterator[Difference]:
    """The options in which two configurations differ; a list of another length is one of them."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(name, old.get(name), new.get(name)) for name in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *both) for index, both in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield Difference(key, old, new)
        return
    for name, left, right in pairs:
        yield from differences(left, right, f"{key}.{name}" if key else name)


def identity_of(schema: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a configuration without those that change nothing of the model."""
    kept = {}
    for name, declared in declared_fields(schema).items():
        if MAY_CHANGE in declared.constraints or name not in options:
            continue
        value = options[name]
        nested = is_dataclass(declared.type) and isinstance(value, Mapping)
        kept[name] = identity_of(schema_for(declared.type, value), value) if nested else value
    return kept


def load_saved_experiment(exp_dir: Path) -> AnyExperiment:
    """The configuration that a system's folder was trained with.

    Raises:
        UserError: not the folder of a system, or made by another version of the options.
    """
    path = exp_dir / CONFIG
    saved = load_yaml(path)
    if _kind(saved, source=str(path)) is None:
        return build_config(experiment_schema(), saved, source=str(path))
    return build_config(LanguageModelExperiment, saved, source=str(path))
