"""Is the teacher better on dev than its student's start, and than students that learnt without one?"""

from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from kdasr.bundle import Bundle
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.distillation.objective import Objective
from kdasr.distillation.unpaired_terms import needs_teacher
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.saved_config import load_saved_experiment
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.training.system import System
from kdasr.training.teacher_lead import Lead, last_dev_wer, weak_teacher
from kdasr.training.transducer import validate_model
from kdasr.training.validation import Validation

logger = get_logger(__name__)


def compare_with_teacher(
    system: System, objective: Objective, config: ExperimentConfig, teacher: Bundle
) -> Callable[[Fabric], Lead | None]:
    """What warns of a teacher that is no better on dev than its student's start, or a student without one."""

    def compare(fabric: Fabric) -> Lead | None:
        def measure(model: Transducer, context: Context) -> Validation:
            batches = system.valid_batches()
            return validate_model(fabric, model, objective, batches, system.tokenizer, context)

        of_teacher, of_student = measure(teacher.model, teacher.context), None
        teacher_wer = of_teacher.scores["wer"]
        others = {}
        if config.stages[0].init_from is not None:
            assert isinstance(system.model, Transducer)
            of_student = measure(system.model, config.contexts[0])
            others["the student's start"] = of_student.scores["wer"]
        others |= plain_students(system.exp_dir.parent, config.contexts[0])
        listed = "".join(f", {name} {wer:.2f} %" for name, wer in others.items())
        logger.info("dev WER: teacher %.2f %%%s", teacher_wer, listed)
        if warning := weak_teacher(teacher_wer, others):
            logger.warning("%s", warning)
        if config.objective.follow == "always":
            return None
        start = of_student.criterion if of_student else None
        return Lead(of_teacher.criterion, start, config.objective.follow_lead)

    return compare


def plain_students(folder: Path, context: Context) -> dict[str, float]:
    """Dev WER of the systems in a folder that stream under `context` and learnt without a teacher."""
    found = {}
    for path in sorted(folder.glob("*/config.yaml")):
        try:
            saved = load_saved_experiment(path.parent)
        except UserError:  # a folder of another version, or of something else, is no reason to stop
            continue
        if not isinstance(saved, ExperimentConfig) or saved.contexts[0] != context:
            continue
        wer = last_dev_wer(path.parent)
        if wer is not None and not needs_teacher(saved.stages, saved.unpaired):
            found[path.parent.name] = wer
    return found
