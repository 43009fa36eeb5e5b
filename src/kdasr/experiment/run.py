"""Training a system in its folder, from its start or from where it stands; and averaging what that left."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from lightning_fabric import Fabric

from kdasr.checkpoint import AVERAGED, FOLDER, average_checkpoints, save_checkpoint
from kdasr.common.errors import UserError
from kdasr.common.failures import is_disk_full
from kdasr.common.locks import process_lock
from kdasr.common.logging import get_logger, setup_logging
from kdasr.experiment.config import AnyExperiment, LanguageModelExperiment
from kdasr.experiment.language_model_trainer import build_language_model_trainer
from kdasr.experiment.saved_config import claim_folder, load_saved_experiment, save_experiment
from kdasr.experiment.trainer_start import own_tokenizer
from kdasr.experiment.transducer_trainer import build_trainer
from kdasr.training.devices import make_fabric
from kdasr.training.resume import saved_progress
from kdasr.training.stage import checkpoints_to_average, stages_done, stages_until

logger = get_logger(__name__)


def train(config: AnyExperiment, exp_dir: Path, until_stage: str | None = None) -> None:
    """Train a system in its folder, or go on with it.

    Raises:
        UserError: another process trains there, or bad input of any kind; see `build_trainer`,
            `build_language_model_trainer`, `Trainer.fit`.
        TrainingInterrupted: stopped by a signal; a checkpoint is left.
    """
    fabric = make_fabric(config.training)
    with _only_training(exp_dir) if fabric.is_global_zero else nullcontext():
        _train(config, exp_dir, until_stage, fabric)


@contextmanager
def _only_training(exp_dir: Path) -> Iterator[None]:
    """Keep other trainings out of a folder: each would write over what the other one saves.

    Raises:
        UserError: another process trains there.
    """
    exp_dir.mkdir(parents=True, exist_ok=True)
    with process_lock(exp_dir / ".lock") as is_ours:
        if not is_ours:
            raise UserError(f"{exp_dir}: another process trains there. Wait for it, or give another --exp.")
        yield


def _train(config: AnyExperiment, exp_dir: Path, until_stage: str | None, fabric: Fabric) -> None:
    changed = claim_folder(config, exp_dir) if fabric.is_global_zero else []
    setup_logging(exp_dir / "train.log", is_first=fabric.is_global_zero)
    fabric.barrier()
    wanted = stages_until(config.stages, until_stage)
    if stages_done(saved_progress(exp_dir), config.stages) >= len(wanted):
        if (Path(config.data.dir) / "tokens").is_dir():  # else nothing contradicts
            own_tokenizer(config, exp_dir, fabric)
        logger.info("%s: already trained: %s", exp_dir, ", ".join(stage.name for stage in wanted))
        return
    try:
        if isinstance(config, LanguageModelExperiment):
            trainer = build_language_model_trainer(config, exp_dir, fabric)
        else:
            trainer = build_trainer(config, exp_dir, fabric)
        if changed:  # not before the data have been found to be the same
            logger.info("goes on with other options: %s", "; ".join(map(str, changed)))
            save_experiment(config, exp_dir)
        trainer.fit(until_stage)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{exp_dir}: the disk is full; the last checkpoint is sound. Free some space."
        ) from error


def average(exp_dir: Path, count: int | None = None) -> list[Path]:
    """Average kept checkpoints of the final stage into `checkpoints/averaged.pt`.

    Args:
        exp_dir: of the system.
        count: the last so many; None: those that would be the start of a next stage.

    Returns:
        The checkpoints that went in.

    Raises:
        UserError: no experiment there, or its final stage has left no checkpoint.
    """
    config = load_saved_experiment(exp_dir)
    paths = checkpoints_to_average(exp_dir, config.stages[-1].name, config.training, count)
    save_checkpoint(exp_dir / FOLDER / AVERAGED, average_checkpoints(paths))
    return paths
