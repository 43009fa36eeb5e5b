"""What the options of a system allow one by one, and training could not run."""

import re
from collections.abc import Sequence

from kdasr.common.errors import UserError
from kdasr.data.data_config import TranscriptConfig
from kdasr.data.text_rules import check_rule
from kdasr.distillation.objective_config import LENGTHS, StageConfig
from kdasr.distillation.terms.base import Need, known_terms, needing
from kdasr.experiment.config import ExperimentConfig, LanguageModelExperiment
from kdasr.experiment.unpaired_checks import check_unpaired
from kdasr.language_model.module import TERM as LM_TERM
from kdasr.nn.context import ContextChoice


def check_experiment(config: ExperimentConfig, source: str) -> None:
    """Refuse what the types allow and training could not run.

    Raises:
        UserError: naming the option.
    """
    _check_stages(config.stages, list(known_terms()), source)
    check_text(config.text, source)
    choice = config.context_choice
    if bool(choice.left) != bool(choice.chunk) or (choice != ContextChoice() and not choice):
        raise UserError(f"{source}: contexts: expected both left and chunk to draw from: {choice}")
    twice = [context for context in config.contexts if config.contexts.count(context) > 1]
    if choice and twice:  # in a list, a context that is there twice is drawn twice as often
        raise UserError(f"{source}: contexts: evaluate names {twice[0]} twice")
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


def check_language_model(config: LanguageModelExperiment, source: str) -> None:
    """The same for a language model.

    Raises:
        UserError: naming the stage.
    """
    _check_stages(config.stages, (LM_TERM,), source)
    for stage in config.stages:
        if stage.plateau_patience > 0:
            raise UserError(f"{source}: stage '{stage.name}' has plateau_patience, which is for hidden_mse")
        if stage.unpaired_weights:
            raise UserError(f"{source}: stage '{stage.name}' has unpaired_weights, which are for speech")
    _check_lengths(config.stages, source)


def check_text(config: TranscriptConfig, source: str) -> None:
    """
    Raises:
        UserError: no such rule of writing text.
    """
    if config.normalize is not None:
        check_rule(config.normalize, f"{source}: text.normalize")


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
