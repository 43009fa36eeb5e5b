"""Which terms batches without transcripts have, and what these terms take."""

from collections.abc import Sequence

from kdasr.distillation.objective_config import (
    DISTILLATION,
    NO_TEXT,
    ONCE,
    SEARCH,
    StageConfig,
    UnpairedConfig,
)
from kdasr.distillation.terms.base import Need, needing


def learns_unpaired(config: UnpairedConfig) -> bool:
    """Whether a system has speech without transcripts: parts that have a weight."""
    return bool(config.parts) and config.weight > 0.0


def is_distilled(config: UnpairedConfig) -> bool:
    """Whether it learns from them by the terms of the objective."""
    return learns_unpaired(config) and config.method == DISTILLATION


def unpaired_terms(stage: StageConfig, config: UnpairedConfig) -> dict[str, float]:
    """Term name -> weight on batches without transcripts, before `unpaired.weight`.

    Without text, terms that the stage names for transcripts are left out if they need some.
    """
    return weights_without_text(stage.unpaired_weights, stage.loss_weights, config)


def weights_without_text(
    unpaired: dict[str, float], paired: dict[str, float], config: UnpairedConfig
) -> dict[str, float]:
    """The same from the two groups of weights of a stage."""
    if unpaired:
        return unpaired
    left_out = needing(Need.TEXT, paired) if config.hypothesis.source == NO_TEXT else []
    return {name: weight for name, weight in paired.items() if name not in left_out}


def all_terms(stages: Sequence[StageConfig], config: UnpairedConfig) -> set[str]:
    """The terms of all stages, on batches of either kind."""
    names = {name for stage in stages for name in stage.loss_weights}
    if is_distilled(config):
        names |= {name for stage in stages for name in unpaired_terms(stage, config)}
    return names


def is_searched(stages: Sequence[StageConfig], config: UnpairedConfig) -> bool:
    """Whether the teacher has to say what stands for the transcripts."""
    needs_text = any(needing(Need.TEXT, unpaired_terms(stage, config)) for stage in stages)
    return is_distilled(config) and needs_text and config.hypothesis.source in (SEARCH, ONCE)


def needs_teacher(stages: Sequence[StageConfig], config: UnpairedConfig) -> bool:
    """Whether the system learns from a teacher, by terms or by what it says."""
    return bool(needing(Need.TEACHER, all_terms(stages, config))) or is_searched(stages, config)
