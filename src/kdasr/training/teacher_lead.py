"""Is the teacher better than what it teaches? A worse one pulls its student back.

Dev word errors of the teacher, of the student as it starts, and of students of the same context that learnt
without a teacher, in the folders beside it. A student that has passed its teacher can go on alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.logging import get_logger
from kdasr.distillation.terms.base import Need, needing
from kdasr.training.resume import Progress, metrics_rows

logger = get_logger(__name__)


@dataclass(frozen=True)
class Lead:
    """Dev scores before the first step, such as word error rates in percent; the lower the better."""

    teacher: float
    student: float | None
    """None: its weights are random."""
    needed: float = 0.0
    """The share of the student's score by which the teacher's has to be below it to teach any more."""


def without_teacher(loss_weights: dict[str, float]) -> dict[str, float]:
    """The terms that need no teacher; all of them where nothing else would train the student."""
    taught = needing(Need.TEACHER, loss_weights)
    own = {name: weight for name, weight in loss_weights.items() if name not in taught}
    return own if any(weight > 0 for weight in own.values()) else loss_weights


def leave_teacher_if_passed(progress: Progress, score: float) -> None:
    """End the distillation if this dev score of the student is below its teacher's, or so little above it
    that the teacher has no longer the lead that it needs.
    """
    teacher, needed = progress.teacher_score, progress.teacher_lead
    if teacher is None or progress.alone_since >= 0 or score * (1 - needed) >= teacher:
        return
    progress.alone_since = progress.step
    what = f"is less than {needed:.0%} behind" if score >= teacher else "has passed"
    logger.warning(
        "step %d: the student %s its teacher on dev (%.2f against %.2f %%): terms that need the teacher "
        "count nothing from here on (objective.follow: while_ahead)",
        progress.step,
        what,
        score,
        teacher,
    )


def last_dev_wer(exp_dir: Path) -> float | None:
    """The dev word error rate at the last validation of a system's training; None where there is none."""
    path = exp_dir / "metrics.jsonl"
    rows = metrics_rows(path) if path.is_file() else ()
    rates = [row["wer"] for _, row in rows if row.get("split") == "valid" and row.get("wer") is not None]
    return float(rates[-1]) if rates else None


def weak_teacher(teacher_wer: float, others: Mapping[str, float]) -> str | None:
    """A sentence that names what is at least as good as the teacher on dev; None if nothing is.

    Args:
        teacher_wer: the teacher's dev WER in percent.
        others: what to compare with -> its dev WER in percent.
    """
    better = {name: wer for name, wer in others.items() if wer <= teacher_wer}
    if not better:
        return None
    listed = ", ".join(f"{name} {wer:.2f} %" for name, wer in better.items())
    return (
        f"the teacher has {teacher_wer:.2f} % WER on dev and is no better than {listed}: "
        "distilling from it may make the student worse; train the teacher longer, or take a better one"
    )
