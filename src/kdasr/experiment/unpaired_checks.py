"""What the options of speech without transcripts allow one by one, and training could not run."""

from collections.abc import Sequence

from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import DISTILLATION, NO_TEXT, StageConfig, UnpairedConfig
from kdasr.distillation.terms.base import Need, needing
from kdasr.distillation.unpaired_terms import is_distilled, is_searched, unpaired_terms


def check_unpaired(
    stages: Sequence[StageConfig], config: UnpairedConfig, *, has_teacher: bool, source: str
) -> None:
    """Refuse weights without their kind of batches, and terms without what they need.

    Raises:
        UserError: naming the stage or the option.
    """
    for stage in stages:
        if stage.unpaired_weights and not (config.parts and config.method == DISTILLATION):
            raise UserError(
                f"{source}: stage '{stage.name}' has unpaired_weights, which need unpaired.parts and "
                f"unpaired.method '{DISTILLATION}'"
            )
    if not is_distilled(config):
        return
    if is_searched(stages, config) and not has_teacher:
        raise UserError(
            f"{source}: unpaired.hypothesis.source '{config.hypothesis.source}' needs objective.teacher, "
            "which says what stands for the transcripts"
        )
    for stage in stages:
        _check_stage(
            stage, config, has_teacher, is_searched(stages, config), f"{source}: stage '{stage.name}'"
        )


def _check_stage(
    stage: StageConfig, config: UnpairedConfig, has_teacher: bool, searched: bool, where: str
) -> None:
    terms = unpaired_terms(stage, config)
    if config.hypothesis.source == NO_TEXT and (without := needing(Need.TEXT, terms)):
        raise UserError(
            f"{where}: unpaired_weights has {without}, which need a text: unpaired.hypothesis.source is "
            f"'{NO_TEXT}'"
        )
    if not terms:
        raise UserError(
            f"{where}: none of its losses {sorted(stage.loss_weights)} does without text; give it "
            "unpaired_weights, or another unpaired.hypothesis.source"
        )
    needing_teacher = needing(Need.TEACHER, terms)
    if needing_teacher and not has_teacher:
        raise UserError(f"{where}: unpaired_weights has {needing_teacher} but no objective.teacher")
    copies = needing(Need.SECOND_MASKS, terms)
    if copies and (has_teacher and (needing_teacher or searched)):
        raise UserError(
            f"{where}: {copies} on batches without transcripts, which hold one copy more, the teacher's or "
            "the second one"
        )
