"""Batches whose loss or gradient is not finite: they are skipped, and must not be many in a row."""

from collections.abc import Sequence

from lightning_fabric import Fabric

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.distillation.step import TrainBatch
from kdasr.training.resume import Progress, gather, last_checkpoint
from kdasr.training.system import System
from kdasr.training.update import StepResult

logger = get_logger(__name__)


def count_bad(
    progress: Progress, result: StepResult, batches: Sequence[TrainBatch], system: System, fabric: Fabric
) -> None:
    """Say which utterances and which term of a step were not finite, and count it in `progress`.

    Args:
        progress: where training stands.
        result: of this process.
        batches: of this process.
        system: what is trained.
        fabric: the processes; all of them call this.

    Raises:
        UserError: `max_bad_batches` in a row.
    """
    progress.bad_batches += 1
    gathered = gather(fabric, {"terms": result.bad_terms(), "ids": result.bad_ids(batches)})
    bad = sorted({name for part in gathered for name in part["terms"]})
    ids = [identifier for part in gathered for identifier in part["ids"]]
    ids = ids or [identifier for batch in batches for identifier in batch.ids]
    what = f"loss {', '.join(bad)}" if bad else f"gradient (norm {float(result.gradient_norm)})"
    logger.warning("step %d: not finite: %s; batch skipped: %s", progress.step, what, " ".join(ids))
    if progress.bad_batches >= system.config.max_bad_batches:
        last = last_checkpoint(system.exp_dir)
        sound = f"; {last} is sound" if last.is_file() else ""
        raise UserError(
            f"{progress.bad_batches} batches in a row were not finite, the last one in its {what}: "
            f"{' '.join(ids)}. Lower the learning rate or look at the data{sound}."
        )
