"""The training loop: one for every stage of every system."""

import time
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from kdasr.checkpoint import FOLDER, save_checkpoint
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.ranges import check_options
from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import TrainBatch
from kdasr.nn.context import sample_context
from kdasr.training import stage as stages
from kdasr.training.average import RunningAverage
from kdasr.training.bad_batches import count_bad
from kdasr.training.interrupt import TrainingInterrupted, TrainingStop
from kdasr.training.lost import count_lost
from kdasr.training.metrics import Display, Meter, MetricsWriter
from kdasr.training.module import TrainingModule
from kdasr.training.resume import (
    Progress,
    TeacherFile,
    gather,
    last_checkpoint,
    rng_state,
    set_average_aside,
    set_earlier_aside,
    set_rng_state,
    truncate_metrics,
)
from kdasr.training.saved_state import restore_state, result_so_far, state_of_process, state_of_training
from kdasr.training.step_errors import StepError, naming_batches, pieces_of
from kdasr.training.system import System
from kdasr.training.system_validation import validate_system
from kdasr.training.teacher_lead import leave_teacher_if_passed, without_teacher
from kdasr.training.update import Updater
from kdasr.training.validation import WARM, Validation

logger = get_logger(__name__)


class Trainer:
    """Trains a `System` stage by stage; everything that a resume needs is in its `last.pt`."""

    def __init__(self, system: System, fabric: Fabric) -> None:
        check_options(system.config, "training")
        self.system = system
        self.fabric = fabric
        self.config = system.config
        first, *more = system.teachers or [TeacherFile("", "")]
        self.progress = Progress(
            teacher=first.path,
            teacher_sha256=first.sha256,
            more_teachers=[(file.path, file.sha256) for file in more],
            batches_per_step=fabric.world_size * system.config.optim.accumulate,
        )
        self.meter = Meter()
        self.stop = TrainingStop()
        self.display = Display(enabled=fabric.is_global_zero)
        self.writer: MetricsWriter | None = None
        self.learning_rate = 0.0
        self._stop_agreed = self._save_agreed = False
        self._saved_at = time.monotonic()
        self._saved_optimizer: dict[str, Any] | None = None
        self._saved_average: dict[str, Any] | None = None
        self.average: RunningAverage | None = None
        self._before_step: tuple[dict[str, Any], dict[str, Any]] | None = None
        """While a step is computed: where batches and random numbers stood before it."""

    @property
    def last_path(self) -> Path:
        """The checkpoint that holds the resume state."""
        return last_checkpoint(self.system.exp_dir)

    def fit(self, until_stage: str | None = None) -> None:
        """Train the stages that are not finished, up to and including `until_stage`.

        Raises:
            UserError: a stage cannot start, too many bad batches, or the disk is full.
            TrainingInterrupted: a signal asked for a stop; a checkpoint is left.
        """
        wanted = stages.stages_until(self.system.stages, until_stage)
        self.restore()
        to_do = range(stages.stages_done(self.progress, self.system.stages), len(wanted))
        if to_do and self.fabric.is_global_zero:
            set_average_aside(self.system.exp_dir)
        with self.stop.listening():
            try:
                for index in to_do:
                    run_stage(index, self)
            except StepError as error:
                raise UserError(f"{error}. {self._saved_after_error()}") from error
            finally:
                self.display.close()
                if self.writer is not None:
                    self.writer.close()

    def _saved_after_error(self) -> str:
        """Keep the state from before the step that failed; says where to go on from."""
        # The other processes of several wait for this one, and cannot be asked.
        if self.fabric.world_size == 1 and self.progress.step > 0:
            if self._before_step is not None:
                batches, random_numbers = self._before_step
                self.updater.discard()
                self.system.train_batches.load_state_dict(batches)
                set_rng_state(random_numbers)
            self.save(keep=False, best=False)
        if not self.last_path.is_file():
            return "Nothing is lost: no step was made"
        return f"{self.last_path} is saved: the same command goes on from there"

    def restore(self) -> None:
        """Continue from `last.pt` if there is one; a system without one begins anew."""
        fabric = self.fabric
        self.system.model.to(fabric.device)
        self.system.objective.to(fabric.device)
        restored = restore_state(self.system, self.meter, self.progress, fabric)
        if restored is not None:
            self.progress, self._saved_optimizer, self._saved_average = restored
        elif fabric.is_global_zero:
            set_earlier_aside(self.system.exp_dir)
        if fabric.is_global_zero:
            truncate_metrics(self.system.exp_dir / "metrics.jsonl", self.progress.step)
            self.writer = MetricsWriter(self.system.exp_dir, first_step=self.progress.step + 1)

    def begin(self, index: int) -> None:
        """Set up stage number `index`: initial weights, frozen parts, a fresh optimizer; or continue it."""
        system, progress = self.system, self.progress
        stage = system.stages[index]
        resumed = self._saved_optimizer is not None and progress.stage == index
        if not resumed:
            self._enter_stage(index)
        stages.freeze(system.model, stage.freeze, stage.name)
        self.stage = stage
        self.module = TrainingModule(system.model, system.objective).train()
        self.updater = Updater(self.fabric, self.module, stage, self.config.optim)
        self._begin_average(resumed)
        if resumed and self._saved_optimizer is not None:
            self.updater.optimizer.load_state_dict(self._saved_optimizer)
        self._saved_optimizer = self._saved_average = None
        self.display.begin(stage.name, self.progress.stage_step, stage.steps)
        logger.info("stage '%s': %s, losses %s", stage.name, _starts_from(stage, index), stage.loss_weights)

    def _begin_average(self, resumed: bool) -> None:
        """Set up the running average, if there is one, and what is measured and kept."""
        self.average, self.measured = None, self.module
        if self.config.average_decay == 0.0:
            return
        self.average = RunningAverage(self.system.model, self.config.average_decay)
        if resumed and self._saved_average is not None:
            saved = self._saved_average
            self.average.load_state_dict(saved, saved["model"], str(self.last_path))
        self.measured = TrainingModule(self.average.model, self.system.objective)

    def _enter_stage(self, index: int) -> None:
        """Reset what belongs to one stage and take over its initial weights."""
        system, old = self.system, self.progress
        if index > 0 and self.fabric.is_global_zero:
            stages.average_stage(system.exp_dir, system.stages[index - 1].name, self.config)
        self.fabric.barrier()
        path = stages.initial_checkpoint(system.stages, index, system.exp_dir)
        from_scratch = old.from_scratch
        if path is not None:
            stages.initialize(system.model, path, system.tokenizer.fingerprint)
            from_scratch = from_scratch and path.parent.parent == system.exp_dir
        lead = system.at_start(self.fabric) if index == 0 and system.at_start is not None else None
        self.progress = Progress(
            stage=index,
            step=old.step,
            seconds=old.seconds,
            from_scratch=from_scratch,
            teacher=old.teacher,
            teacher_sha256=old.teacher_sha256,
            more_teachers=old.more_teachers,
            teacher_score=lead.teacher if lead else old.teacher_score,
            teacher_lead=lead.needed if lead else old.teacher_lead,
            alone_since=old.alone_since,
            batches_per_step=old.batches_per_step,
        )
        if lead is not None and lead.student is not None:
            leave_teacher_if_passed(self.progress, lead.student)
        self.meter = Meter()

    @property
    def loss_weights(self) -> dict[str, float]:
        """Those of the stage, without what needs a teacher once the student has passed it."""
        weights = self.stage.loss_weights
        return without_teacher(weights) if self.progress.alone_since >= 0 else weights

    def train_step(self) -> None:
        """Make one optimizer step, or skip one when its loss or gradient is not finite."""
        started, progress = time.perf_counter(), self.progress
        batches: list[TrainBatch] = []
        self._before_step = self.system.train_batches.state_dict(), rng_state()
        with naming_batches(batches, self.config, f"step {progress.step + 1}"):
            for _ in range(self.config.optim.accumulate * self.system.batches_at_once):
                batches.append(next(self.system.train_batches))
            contexts = self.system.context_choice or self.system.contexts
            context = sample_context(contexts, self.system.seed, progress.step)
            parts = [part for batch in batches for part in pieces_of(batch, self.config.split_batches)]
            step = progress.step if progress.from_scratch else WARM
            result = self.updater.gradients(parts, context, step, self.loss_weights)
            due = time.monotonic() - self._saved_at >= 60 * self.config.save_minutes
            agreed = self.updater.agree(result, stop_asked=self.stop.asked, save_due=due)
            self._stop_agreed, self._save_agreed = agreed.stop, agreed.save
        self._before_step = None
        if not agreed.finite:
            self.updater.discard()
            count_bad(progress, result, parts, self.system, self.fabric)
            return
        if agreed.num_lost:
            own = {"ids": result.bad_ids(parts)}
            ids = [name for part in gather(self.fabric, own) for name in part["ids"]]
            count_lost(progress, agreed, ids, self.config.max_lost)
        progress.utterances += agreed.num_utterances
        self.learning_rate = self.updater.apply(result, progress.stage_step)
        if self.average is not None:
            self.average.update()
        progress.step += 1
        progress.stage_step += 1
        progress.bad_batches = 0
        seconds = time.perf_counter() - started
        progress.seconds += seconds
        values = {**result.terms, "total": result.total, "grad_norm": result.gradient_norm}
        self.meter.add(values, sum(batch.audio_seconds for batch in batches), seconds)
        self.display.advance()

    def log_train(self) -> None:
        """Write a row each `log_every` steps and at the end of the stage: the means since the last one."""
        at_end = self.progress.stage_step >= self.stage.steps
        if self.meter.steps == 0 or (self.progress.step % self.config.log_every and not at_end):
            return
        means, hours_per_second = self.meter.means(self.fabric)
        self.meter = Meter()
        self._write(
            {
                "split": "train",
                "total": means.pop("total"),
                "grad_norm": means.pop("grad_norm"),
                "lr": self.learning_rate,
                "audio_hours_per_second": hours_per_second,
                "terms": means,
            }
        )

    def _write(self, row: dict[str, Any]) -> None:
        progress = self.progress
        position = {"stage": self.stage.name, "step": progress.step, "stage_step": progress.stage_step}
        complete = {**row, **position, "seconds": round(progress.seconds, 3)}
        if self.writer is not None:
            self.writer.write(complete)
        self.display.show(complete, self.stage.steps)

    def validation_due(self) -> bool:
        """At every `validate_every` steps of a stage and at its end, once."""
        progress = self.progress
        if progress.validated_step == progress.step:
            return False
        rhythm = progress.stage_step > 0 and progress.stage_step % self.config.validate_every == 0
        return rhythm or progress.stage_step >= self.stage.steps

    def validate(self) -> Validation | None:
        """Results on the dev parts; None when a stop was asked for on the way."""
        validation = validate_system(
            self.system,
            self.measured,
            self.stage.loss_weights,
            self.fabric,
            should_stop=lambda: self.stop.asked,
        )
        self._stop_agreed = self._stop_agreed or validation is None
        return validation

    def log_valid(self, validation: Validation) -> bool:
        """Write the row, decide whether the stage is over; returns whether this is its best checkpoint."""
        progress, stage = self.progress, self.stage
        row = {"split": "valid", "total": validation.total, **validation.scores, "terms": validation.terms}
        self._write({**row, "contexts": validation.under} if validation.under else row)
        progress.validated_step = progress.step
        leave_teacher_if_passed(progress, validation.criterion)
        plateau = stages.reached_plateau(progress, stage, validation.terms)
        if plateau and progress.stage_step < stage.steps:
            logger.info("stage '%s': hidden_mse has stopped improving; it ends here", stage.name)
        progress.stage_over = plateau or progress.stage_step >= stage.steps
        return stages.update_best(progress, validation.criterion, validation.total)

    def save(self, *, keep: bool, best: bool) -> None:
        """Write `last.pt`; without the resume state also the stage's own file (`keep`) and `best.pt`."""
        system, progress = self.system, self.progress
        processes = gather(self.fabric, state_of_process(system, self.meter))
        self._saved_at, self._save_agreed = time.monotonic(), False
        if not self.fabric.is_global_zero:
            return
        payload = result_so_far(system, self.measured.model, progress)
        if keep:
            save_checkpoint(stages.checkpoint_path(system.exp_dir, self.stage.name, progress.step), payload)
        if best:
            save_checkpoint(system.exp_dir / FOLDER / "best.pt", payload)
        state = state_of_training(system, progress, self.updater.optimizer, self.average, processes)
        save_checkpoint(self.last_path, {**payload, "trainer": state})
        stages.prune_checkpoints(system.exp_dir, system.stages, self.stage.name, self.config.keep_last)

    def save_if_due(self) -> None:
        """Write `last.pt` when `save_minutes` have passed since it was written."""
        if self._save_agreed:
            self.save(keep=False, best=False)

    def stop_if_asked(self) -> None:
        """Leave a checkpoint and stop, when a signal has asked for it.

        Raises:
            TrainingInterrupted: always, in that case.
        """
        # Several processes stop after the same step: the one on which they told each other.
        if not (self._stop_agreed or (self.fabric.world_size == 1 and self.stop.asked)):
            return
        if self.fabric.world_size > 1:
            self.stop.begin()
        self.save(keep=False, best=False)
        # Whoever ends while the first process still writes makes torchrun end that one.
        self.fabric.barrier()
        raise TrainingInterrupted(
            f"stopped at step {self.progress.step}, saved as {self.last_path}; "
            "the same command goes on from there"
        )


def run_stage(index: int, trainer: Trainer) -> None:
    """Train one stage from wherever it stands to its end."""
    trainer.begin(index)
    trainer.progress.stage_over = False
    while not trainer.progress.stage_over:
        if trainer.validation_due():
            validation = trainer.validate()
            if validation is not None:
                best = trainer.log_valid(validation)
                if trainer.system.after_validation is not None:
                    trainer.system.after_validation(trainer.fabric, validation, trainer.measured.model)
                trainer.save(keep=True, best=best)
        else:
            trainer.train_step()
            trainer.log_train()
        trainer.stop_if_asked()
        trainer.save_if_due()


def _starts_from(stage: StageConfig, index: int) -> str:
    default = "the stage before" if index else "random weights"
    return f"{stage.steps} steps from {stage.init_from or default}"
