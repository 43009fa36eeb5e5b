"""What a resume needs beyond the weights: where training stands, and every source of randomness."""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from kdasr.checkpoint import AVERAGED, FOLDER, load_checkpoint
from kdasr.common.errors import UserError
from kdasr.common.files import write_text
from kdasr.common.lines import text_lines
from kdasr.common.logging import get_logger
from kdasr.training.training_config import TrainerConfig

logger = get_logger(__name__)


class TeacherFile(NamedTuple):
    """A checkpoint that a run learns from."""

    path: str
    sha256: str


@dataclass
class Progress:
    """Where training stands. Plain values only, so that it goes into a checkpoint as it is."""

    stage: int = 0
    """Index of the stage."""
    stage_step: int = 0
    """Optimizer steps made in this stage."""
    step: int = 0
    """Optimizer steps made in all stages."""
    stage_over: bool = False
    """The stage has ended (by steps or by plateau) and its last validation is done."""
    from_scratch: bool = True
    """The weights began at random in this run, so that the loss warms up."""
    validated_step: int = -1
    """The step of the latest validation."""
    seconds: float = 0.0
    """Time spent in training, all starts together."""
    best_wer: float = float("inf")
    """Of this stage, on the dev parts, percent; of a language model its perplexity."""
    best_loss: float = float("inf")
    """Dev loss of the best checkpoint of this stage."""
    plateau_best: float = float("inf")
    plateau_count: int = 0
    """Validations since the dev `hidden_mse` was at its best."""
    bad_batches: int = 0
    """Non-finite batches in a row."""
    utterances: int = 0
    """Trained on in this stage, each as often as it came, of all processes together."""
    lost: int = 0
    """Of these, how many no path fitted, so that they taught nothing."""
    teacher: str = ""
    """The teacher's checkpoint file. A resume takes the same one, even if a better one has appeared."""
    teacher_sha256: str = ""
    """Its digest, by which it is known where it has moved; empty in runs from before there was one."""
    more_teachers: list[tuple[str, str]] = field(default_factory=list)
    """File and digest of each further teacher."""
    teacher_score: float | None = None
    """The teacher's dev score when training began, which ends the distillation once the student's is lower;
    None: nothing ends it."""
    teacher_lead: float = 0.0
    """The share of the student's score by which the teacher's has to be below it."""
    alone_since: int = -1
    """The step from which the student learns without its teacher; -1: it has not passed it."""
    batches_per_step: int = 0
    """Of all processes together. 0 in runs from before it was kept: `accumulate` times the processes."""

    @property
    def teachers(self) -> list[TeacherFile]:
        """Those that the run began to learn from, the first one first."""
        first = [TeacherFile(self.teacher, self.teacher_sha256)] if self.teacher else []
        return first + [TeacherFile(*file) for file in self.more_teachers]

    @property
    def stages_done(self) -> int:
        """How many stages have ended."""
        return self.stage + self.stage_over


def last_checkpoint(exp_dir: Path) -> Path:
    """The checkpoint of an experiment folder that holds the resume state."""
    return exp_dir / FOLDER / "last.pt"


def load_resume(exp_dir: Path) -> dict[str, Any] | None:
    """The checkpoint that training goes on from; None when there is none yet.

    Raises:
        UserError: a damaged file, or one that lacks the state of the training.
    """
    path = last_checkpoint(exp_dir)
    if not path.is_file():
        return None
    payload = load_checkpoint(path)
    if "trainer" not in payload:
        raise UserError(f"{path}: holds weights only, training cannot go on from it; remove it to begin anew")
    return payload


def set_earlier_aside(exp_dir: Path) -> None:
    """Move checkpoints that a training has left without its `last.pt` to a folder `earlier-N` beside them.

    A training that begins anew would average its own checkpoints with those of later steps.
    """
    folder = exp_dir / FOLDER
    earlier = sorted(folder.glob("*.pt"))
    if not earlier:
        return
    aside = _set_aside(folder, earlier)
    logger.warning(
        "%s: holds checkpoints of an earlier training, but no %s from which it could go on; they are in %s "
        "now, and training begins anew",
        folder, last_checkpoint(exp_dir).name, aside,
    )  # fmt: skip


def set_average_aside(exp_dir: Path) -> None:
    """Move `averaged.pt`, as `set_earlier_aside` does, when the training that it is of goes on.

    Decoding would prefer it to the checkpoints of further steps.
    """
    path = exp_dir / FOLDER / AVERAGED
    if path.is_file():
        aside = _set_aside(path.parent, [path])
        logger.warning(
            "%s: of fewer steps than this training will have; it is in %s now (kdasr average writes another)",
            path, aside,
        )  # fmt: skip


def _set_aside(folder: Path, paths: Iterable[Path]) -> Path:
    """Move files of a folder to a new one in it; returns that one."""
    aside = next(path for number in count(1) if not (path := folder / f"earlier-{number}").exists())
    aside.mkdir()
    for path in paths:
        path.rename(aside / path.name)
    return aside


def saved_progress(exp_dir: Path) -> Progress:
    """Where the training in an experiment folder stands; at the beginning when there is no checkpoint."""
    payload = load_resume(exp_dir)
    return Progress(**payload["trainer"]["progress"]) if payload else Progress()


def batches_per_process(exp_dir: Path, accumulate: int, world_size: int) -> int:
    """Batches that each process has in an optimizer step: as many in all as when the run began.

    Raises:
        UserError: they cannot be shared out evenly.
    """
    payload = load_resume(exp_dir)
    if payload is None:
        return accumulate
    state = payload["trainer"]
    total = state["progress"].get("batches_per_step") or accumulate * len(state["processes"])
    if total % world_size:
        possible = ", ".join(str(number) for number in range(1, total + 1) if total % number == 0)
        raise UserError(
            f"{exp_dir}: trained with {total} batches per optimizer step, which {world_size} processes "
            f"cannot share evenly; possible: {possible}"
        )
    return total // world_size


def share_out(config: TrainerConfig, exp_dir: Path, fabric: Fabric) -> TrainerConfig:
    """The settings with as many batches per process as make the optimizer step that the run began with."""
    wanted = config.optim.accumulate
    accumulate = batches_per_process(exp_dir, wanted, fabric.world_size)
    if accumulate != wanted:
        logger.info("%d batches per step on each of %d process(es)", accumulate, fabric.world_size)
    return replace(config, optim=replace(config.optim, accumulate=accumulate))


def own_state(processes: list[dict[str, Any]], fabric: Fabric) -> dict[str, Any]:
    """This process's share of what all processes saved.

    Where there were more or fewer processes, that is the position in the stream of batches alone, which is
    the same on all of them; the rest begins anew.
    """
    if len(processes) == fabric.world_size:
        return processes[fabric.global_rank]
    return {"batches": processes[0]["batches"]}


def rng_state() -> dict[str, Any]:
    """The state of all random generators of this process: Python, numpy, torch, CUDA."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            position,
            has_gauss,
            cached,
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Continue from what `rng_state` returned. A CUDA state is ignored where there is no such device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    cuda: list[Tensor] = state["cuda"]
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)


def seed_everything(seed: int, rank: int) -> None:
    """Seed all generators; ranks differ, so that their dropout does."""
    mixed = seed * 1000 + rank
    random.seed(mixed)
    np.random.seed(mixed % 2**32)
    torch.manual_seed(mixed)


def gather(fabric: Fabric, value: dict[str, Any]) -> list[dict[str, Any]]:
    """The value of every process, in the order of their ranks, on every process."""
    if fabric.world_size == 1:
        return [value]
    gathered: list[dict[str, Any]] = [{} for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def truncate_metrics(path: Path, last_step: int) -> None:
    """Drop the rows of steps after `last_step`, which a resume makes again, and a half-written last row."""
    if path.is_file():
        kept = [line + "\n" for line, row in metrics_rows(path) if row["step"] <= last_step]
        write_text(path, "".join(kept))


def metrics_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a `metrics.jsonl`, each as it stands and read; a half-written last one is left out."""
    for line in text_lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return
        yield line, row
