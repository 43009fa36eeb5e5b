"""One training of a row, and what has to be there before it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdasr.experiment.config import ExperimentConfig
from kdasr.study.trained_run import RunInfo


@dataclass(frozen=True)
class Run:
    """One row trained once."""

    row: str
    init: str
    seed: int
    learning_rate: float | None
    """The value that is tried or was chosen; None: the system's own."""
    folder: Path
    config: ExperimentConfig
    offline: bool
    """Decoded in whole utterances: a full context, such as the teacher's."""
    needs: tuple["Run", ...]
    """The runs that it starts or learns from."""

    @property
    def name(self) -> str:
        """Unique, and the folder below the experiment folder."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def job_name(self, kind: str) -> str:
        """The name of its `train`, `dev` or `test` job."""
        return f"{self.name}.{kind}"

    def decoded(self, variant: str = "") -> Path:
        """The folder of a decoding: by greedy search, or `WITH_LM`."""
        return self.folder / f"decode{variant}"

    def info(self) -> RunInfo:
        """What the report has to know of it."""
        steps = sum(stage.num_steps for stage in self.config.stages)
        peak = self.config.stages[0].learning_rate or self.config.training.optim.learning_rate
        return RunInfo(self.row, self.init, self.seed, peak, steps, self.folder)


def elders(run: Run) -> Iterator[Run]:
    """All that a run depends on, each after what it depends on itself."""
    for other in run.needs:
        yield from elders(other)
        yield other
