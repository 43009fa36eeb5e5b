"""The options of one system: the configuration of every part, composed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import cache
from typing import Annotated, Any

from kdasr.common.errors import UserError
from kdasr.common.ranges import MAY_CHANGE, Items, between
from kdasr.data.data_config import DataConfig, TranscriptConfig
from kdasr.distillation.objective_config import StageConfig, UnpairedConfig
from kdasr.distillation.terms import ObjectiveConfig, objective_schema
from kdasr.language_model.model import LanguageModelConfig
from kdasr.language_model.module import TERM as LM_TERM
from kdasr.language_model.text import TextConfig
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context, ContextChoice
from kdasr.training.training_config import TrainerConfig

DEFAULT_LOSS_WEIGHTS = {"rnnt": 1.0, "ctc": 0.3}
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
    contexts: Annotated[list[Context], Items(unique=False)] = field(default_factory=list)
    """Encoder contexts in training, sampled per batch when there are several. The first one is that of
    validation and decoding. The other form, `{left: [...], chunk: [...], right: [...], full_probability: p,
    evaluate: [...]}`, draws every part by itself (`context_choice`). Not given: the full context."""
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
        # Here, because each part may come from another layer of options.
        if not self.contexts:
            self.contexts = [self.context_choice.first() if self.context_choice else Context.full()]

    @classmethod
    def in_full(cls, layer: Mapping[str, Any]) -> Mapping[str, Any]:
        """A layer of options in which `contexts` is a list.

        Raises:
            UserError: an unknown part of the other form, or no context in a list.
        """
        contexts = layer.get("contexts")
        if isinstance(contexts, Mapping):
            return _with_choice(layer, contexts)
        _refuse_none(contexts, "contexts")
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
        _refuse_none(contexts[EVALUATE], f"contexts: {EVALUATE}")
    elif {"left", "chunk"} <= set(choice):
        written["contexts"] = []  # the first values, once all layers are known
    return written


def _refuse_none(contexts: Any, option: str) -> None:
    """Refuse a list without a context.

    Raises:
        UserError: naming the option.
    """
    if contexts == []:
        raise UserError(f"option '{option}' is []; expected at least 1")


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


def kind_of(*layers: Mapping[str, Any], source: str) -> str | None:
    """The kind of system that layers of options describe, the last one that says it; None: a transducer.

    Raises:
        UserError: an unknown kind.
    """
    kinds = [layer["kind"] for layer in layers if "kind" in layer]
    if kinds and kinds[-1] != LANGUAGE_MODEL:
        raise UserError(f"{source}: kind: '{kinds[-1]}'; known: '{LANGUAGE_MODEL}'")
    return kinds[-1] if kinds else None
