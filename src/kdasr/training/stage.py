"""What a stage starts from and what it trains."""

import math
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from kdasr.checkpoint import (
    FOLDER,
    average_checkpoints,
    find_checkpoint,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.distillation.objective_config import StageConfig
from kdasr.training.resume import Progress, TeacherFile, saved_progress
from kdasr.training.training_config import TrainerConfig


def stages_until(stages: Sequence[StageConfig], last: str | None) -> Sequence[StageConfig]:
    """The stages up to and including the one named `last`; all of them for None.

    Raises:
        UserError: no such stage.
    """
    names = [stage.name for stage in stages]
    if last is None:
        return stages
    if last not in names:
        raise UserError(f"no stage '{last}'; there are: {', '.join(names)}")
    return stages[: names.index(last) + 1]


def stage_checkpoints(exp_dir: Path, stage: str) -> list[Path]:
    """The kept checkpoints of one stage, oldest first."""
    found = (exp_dir / FOLDER).glob(f"{stage}-*.pt")
    return sorted(path for path in found if path.stem.removeprefix(f"{stage}-").isdigit())


def checkpoint_path(exp_dir: Path, stage: str, step: int) -> Path:
    """Where the checkpoint of a stage at a step (of all stages) is kept."""
    return exp_dir / FOLDER / f"{stage}-{step:07d}.pt"


def averaged_path(exp_dir: Path, stage: str) -> Path:
    """Where the average of a stage's checkpoints is, if there is more than one to average."""
    return exp_dir / FOLDER / f"{stage}-averaged.pt"


def checkpoints_to_average(
    exp_dir: Path, stage: str, config: TrainerConfig, count: int | None = None
) -> list[Path]:
    """The checkpoints of a stage that stand for it together, oldest first: the last `count` of them.

    None: the last `keep_last`; with a running average, which is an average already, the last one.

    Raises:
        UserError: there are none.
    """
    if count is None:
        count = 1 if config.average_decay > 0 else max(config.keep_last, 1)
    paths = stage_checkpoints(exp_dir, stage)[-count:]
    if not paths:
        raise UserError(f"{exp_dir}: stage '{stage}' has left no checkpoint")
    return paths


def average_stage(exp_dir: Path, stage: str, config: TrainerConfig) -> None:
    """Write what later stages start from when they start from this one."""
    paths = checkpoints_to_average(exp_dir, stage, config)
    if len(paths) > 1:
        save_checkpoint(averaged_path(exp_dir, stage), average_checkpoints(paths))


def prune_checkpoints(exp_dir: Path, stages: Sequence[StageConfig], current: str, keep_last: int) -> None:
    """Keep the last few checkpoints of the current stage and the final one of every other stage."""
    for stage in stages:
        keep = max(keep_last, 1) if stage.name == current else 1
        for path in stage_checkpoints(exp_dir, stage.name)[:-keep]:
            path.unlink()


def resolve_reference(reference: str, exp_dir: Path) -> Path:
    """An experiment folder or checkpoint: beside the experiment folder (`teacher`), else as given.

    Raises:
        UserError: neither exists.
    """
    beside = exp_dir.parent / reference
    for path in (beside, Path(reference)):
        if path.exists():
            return path
    raise UserError(f"'{reference}': no such experiment folder or checkpoint, nor is there {beside}")


def teacher_checkpoint(reference: str, exp_dir: Path, number: int = 0) -> Path:
    """The checkpoint that a run began to learn from, wherever it lies now; at the first start the best one.

    Args:
        reference: see `resolve_reference`.
        exp_dir: of the student.
        number: which of its teachers.

    Raises:
        UserError: it is gone, or another one has taken its place.
    """
    began = next(iter(saved_progress(exp_dir).teachers[number:]), TeacherFile("", ""))
    candidates = [Path(began.path)] if began.path else []
    if not any(path.is_file() for path in candidates):
        folder = resolve_reference(reference, exp_dir)
        candidates = [folder / FOLDER / path.name for path in candidates] if folder.is_dir() else []
        candidates.append(find_checkpoint(folder))
    found = [path for path in candidates if path.is_file()]
    for path in found:
        if began.sha256 in ("", sha256(path)):
            return path
    option = "more_teachers" if number else "teacher"
    raise UserError(
        f"objective.{option}: {found[0]}: not the checkpoint that {exp_dir} "
        f"began to learn from ({Path(began.path).name}, sha256 {began.sha256[:12]}); bring that one back"
    )


def initial_checkpoint(stages: Sequence[StageConfig], index: int, exp_dir: Path) -> Path | None:
    """The checkpoint file that stage number `index` starts from; None: random weights.

    Raises:
        UserError: `init_from` names nothing that exists.
    """
    earlier = [stage.name for stage in stages[:index]]
    reference = stages[index].init_from or next(reversed(earlier), None)
    if reference is None:
        return None
    if reference in earlier:
        averaged = averaged_path(exp_dir, reference)
        if averaged.is_file():
            return averaged
        kept = stage_checkpoints(exp_dir, reference)
        if not kept:
            raise UserError(f"{exp_dir}: stage '{reference}' has left no checkpoint to start from")
        return kept[-1]
    try:
        return find_checkpoint(resolve_reference(reference, exp_dir))
    except UserError as error:
        raise UserError(f"stage '{stages[index].name}': init_from: {error}") from None


def initialize(model: nn.Module, path: Path, tokenizer_fingerprint: str) -> None:
    """Copy the weights of a checkpoint, its feature statistics included, into `model`.

    Raises:
        UserError: other tokens or another architecture; names the first tensor that differs and both shapes.
    """
    payload = load_checkpoint(path)
    load_weights(model, payload["model"], source=str(path))
    if payload["tokenizer_fingerprint"] != tokenizer_fingerprint:
        raise UserError(f"{path}: trained with other tokens; its output layer means something else here")


def freeze(model: nn.Module, prefixes: Sequence[str], stage: str) -> None:
    """Exclude the parameters whose names start with a prefix from training, and include all others.

    Raises:
        UserError: a prefix that fits no parameter, or nothing left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            groups = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise UserError(
                f"stage '{stage}': freeze: no parameter starts with '{prefix}'; there are: {groups}"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith(tuple(prefixes)))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"stage '{stage}': freeze: {list(prefixes)} leaves nothing to train")


def update_best(progress: Progress, wer: float, loss: float) -> bool:
    """Whether these dev results are the best so far: by WER or perplexity, ties by loss; keeps them if so.

    Results with a loss that is not finite never are.
    """
    if not math.isfinite(loss) or (wer, loss) >= (progress.best_wer, progress.best_loss):
        return False
    progress.best_wer, progress.best_loss = wer, loss
    return True


def reached_plateau(progress: Progress, stage: StageConfig, dev_terms: dict[str, float]) -> bool:
    """Whether the dev `hidden_mse` has not improved for `plateau_patience` validations. Counts this one.

    A value that is not finite is no plateau, and does not count.
    """
    value = dev_terms["hidden_mse"] if stage.plateau_patience > 0 else math.nan
    if not math.isfinite(value):
        return False
    if value < progress.plateau_best:
        progress.plateau_best, progress.plateau_count = value, 0
    else:
        progress.plateau_count += 1
    return progress.plateau_count >= stage.plateau_patience
