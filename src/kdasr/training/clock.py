"""One clock for a training: what a recipe gives in epochs or hours of audio becomes optimizer steps.

All that follows counts steps: the schedule of the learning rate, warm-ups, validations, checkpoints. So the
same recipe hears the same audio with any number of processes, and its schedule ends there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.logging import get_logger
from kdasr.data.pace import Pace
from kdasr.distillation.objective_config import RnntConfig, StageConfig
from kdasr.training.schedule_file import SCHEDULE
from kdasr.training.training_config import TrainerConfig

logger = get_logger(__name__)


@dataclass
class Timed:
    """The options of a system that may be in epochs or in hours of audio."""

    stages: Sequence[StageConfig]
    training: TrainerConfig
    rnnt: RnntConfig | None = None
    """None: a system without a transducer loss."""

    @property
    def needs_pace(self) -> bool:
        """Whether something is not in steps."""
        optim = self.training.optim
        hours = [self.training.validate_hours, optim.warmup_hours, optim.eden_hours]
        hours += [stage.warmup_hours for stage in self.stages]
        hours += [self.rnnt.warmup_hours] if self.rnnt else []
        lengths = any(stage.num_steps is None for stage in self.stages)
        epochs = optim.decay == "eden" and not optim.steps_per_epoch
        return lengths or epochs or any(value is not None for value in hours)

    def fill_in(self, pace: Pace) -> None:
        """Set the options in steps from those in epochs or hours.

        Raises:
            UserError: hours of audio, where there is only text.
        """
        training, optim = self.training, self.training.optim
        for stage in self.stages:
            name = f"stages: '{stage.name}'"
            if stage.num_epochs is not None:
                stage.num_steps = max(1, round(stage.num_epochs * pace.per_epoch))
            elif stage.num_hours is not None:
                stage.num_steps = max(1, _steps(stage.num_hours, pace, f"{name}: num_hours"))
            if stage.warmup_hours is not None:
                stage.warmup_steps = _steps(stage.warmup_hours, pace, f"{name}: warmup_hours")
        if training.validate_hours is not None:
            training.validate_every = max(1, _steps(training.validate_hours, pace, "training.validate_hours"))
        if optim.warmup_hours is not None:
            optim.warmup_steps = _steps(optim.warmup_hours, pace, "training.optim.warmup_hours")
        if optim.eden_hours is not None:
            optim.eden_steps = max(1, _steps(optim.eden_hours, pace, "training.optim.eden_hours"))
        if not optim.steps_per_epoch:
            optim.steps_per_epoch = max(1, round(pace.per_epoch))
        if self.rnnt is not None and self.rnnt.warmup_hours is not None:
            self.rnnt.warmup_steps = _steps(self.rnnt.warmup_hours, pace, "objective.rnnt.warmup_hours")


def _steps(hours: float, pace: Pace, option: str) -> int:
    if pace.hours is None:
        raise UserError(f"{option}: {hours:g}: text has no hours; give epochs or steps")
    return round(hours / pace.hours)


def count_steps(timed: Timed, exp_dir: Path, measure: Callable[[], Pace], *, save: bool) -> None:
    """Fill in the steps of a system, and say in the log what they come to.

    A run that has begun keeps the pace that it began with, so that its schedule stays what it was.

    Args:
        timed: changed in place.
        exp_dir: where the pace is kept.
        measure: the pace of optimizer steps, of all processes together; not asked when it is known.
        save: keep it; one process does.

    Raises:
        UserError: hours of audio, where there is only text; a damaged file.
    """
    if not timed.needs_pace:
        return
    pace = _kept_pace(exp_dir / SCHEDULE) or measure()
    timed.fill_in(pace)
    steps = {stage.name: stage.steps for stage in timed.stages}
    for stage in timed.stages:
        hours = "" if pace.hours is None else f", {stage.steps * pace.hours:.1f} h of audio"
        epochs = stage.steps / pace.per_epoch
        logger.info("stage '%s': %d steps, %.2f epochs%s", stage.name, stage.steps, epochs, hours)
    logger.info(
        "a validation each %d steps, %.1f steps an epoch", timed.training.validate_every, pace.per_epoch
    )
    if save:
        content = {"steps_per_epoch": pace.per_epoch, "hours_per_step": pace.hours, "stages": steps}
        write_json(exp_dir / SCHEDULE, content)


def _kept_pace(path: Path) -> Pace | None:
    if not path.is_file():
        return None
    content = read_object(path)
    try:
        pace = Pace(content["steps_per_epoch"], content["hours_per_step"])
        if not pace.per_epoch > 0 or (pace.hours is not None and not pace.hours > 0):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: not what a training wrote there: remove it, or train anew") from None
    return pace
