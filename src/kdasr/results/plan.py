"""From the rows of a recipe to runs, and from runs to jobs: train and average, decode dev, decode test."""

import gzip
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.experiment import ExperimentConfig
from kdasr.report.trained_run import RunInfo
from kdasr.results.config import Recipe, with_learning_rate
from kdasr.results.stamps import Job, Settings

KDASR = (sys.executable, "-m", "kdasr")
STAGES = ("dev", "test")


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
    """Decoded in whole utterances: the teacher."""
    needs: tuple["Run", ...]
    """The runs that it starts or learns from."""

    @property
    def name(self) -> str:
        """Unique, and the folder below the experiment folder."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    def job_name(self, kind: str) -> str:
        """The name of its `train`, `dev` or `test` job."""
        return f"{self.name}.{kind}"

    def info(self) -> RunInfo:
        """What the report has to know of it."""
        steps = sum(stage.num_steps for stage in self.config.stages)
        peak = self.config.stages[0].learning_rate or self.config.training.optim.learning_rate
        return RunInfo(self.row, self.init, self.seed, peak, steps, self.folder)


@dataclass(frozen=True)
class Planner:
    """Makes runs and jobs of a recipe's rows in an experiment folder."""

    recipe: Recipe
    data: Path
    exp: Path
    kdasr: tuple[str, ...] = KDASR
    """The command that jobs call."""
    digests: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Of the data by parts, computed once."""
    made: dict[str, Job] = field(default_factory=dict)
    """The jobs by name, made once."""

    def run(self, row: str, seed: int, learning_rate: float | None) -> Run:
        """One row with one seed and one learning rate."""
        results = self.recipe.results
        name = row if learning_rate is None else f"{row}@{learning_rate:g}"
        folder = self.exp / f"seed-{seed}" / name
        config, init = self.recipe.systems[row], results.rows[row].init
        if learning_rate is not None:
            config = with_learning_rate(config, learning_rate)
        parent = results.parent(row)
        teacher = results.bound if row != results.bound and config.objective.teacher is not None else None
        needs = {name: self._elder(name, seed) for name in (parent, teacher) if name is not None}
        # Beside the run's folder, so that the experiment may be moved as a whole.
        paths = {name: os.path.relpath(run.folder, folder.parent) for name, run in needs.items()}
        first = replace(config.stages[0], init_from=paths[parent] if parent else None)
        config = replace(
            config,
            name=row,
            seed=seed,
            data=replace(config.data, dir=str(self.data)),
            objective=replace(config.objective, teacher=paths[teacher] if teacher else None),
            stages=[first, *config.stages[1:]],
        )
        offline = config.contexts[0].is_full
        return Run(row, init, seed, learning_rate, folder, config, offline, tuple(needs.values()))

    def _elder(self, row: str, seed: int) -> Run:
        """The run of the teacher, or of one of the references, for runs with this seed."""
        shared = row in self.recipe.results.foundation()
        return self.run(row, self.teacher_seed(seed) if shared else seed, None)

    def teacher_seed(self, seed: int) -> int:
        """The seed of the teacher of students with this seed."""
        return seed if self.recipe.results.teacher_per_seed else self.recipe.results.seeds[0]

    def runs(self, rows: Sequence[str], rates: Mapping[str, float | None]) -> list[Run]:
        """Every row that has a learning rate in `rates`, with every seed, in the order of training."""
        results = self.recipe.results
        pairs = [(row, seed) for seed in results.seeds for row in rows]
        if results.order == "row":
            pairs = [(row, seed) for row in rows for seed in results.seeds]
        shared = {
            (row, seed)
            for row in results.foundation()
            for seed in results.seeds
            if self.teacher_seed(seed) != seed
        }
        return [
            self.run(row, seed, rates[row])
            for row, seed in pairs
            if row in rates and (row, seed) not in shared
        ]

    def trials(self, rows: Sequence[str]) -> list[Run]:
        """Every row that is tuned, with the first seed and every value."""
        results = self.recipe.results
        return [
            self.run(row, results.seeds[0], rate)
            for row in rows
            for rate in results.rates(row)
            if len(results.rates(row)) > 1
        ]

    def jobs(self, runs: Sequence[Run], stage: str) -> list[Job]:
        """The jobs of runs, each after those it needs; test parts only at stage `test`."""
        kinds = ("train", *STAGES) if stage == "test" else ("train", STAGES[0])
        jobs: dict[str, Job] = {}
        for run in runs:
            for other in (*_elders(run), run):
                for kind in kinds:
                    name = other.job_name(kind)
                    if name not in self.made:
                        make = self._train_job if kind == "train" else self._decode_job
                        self.made[name] = make(other, kind)
                    jobs[name] = self.made[name]
        return list(jobs.values())

    def _train_job(self, run: Run, kind: str) -> Job:
        settings = asdict(run.config)
        conf = self.exp / "conf" / f"{run.name}.yaml"
        exp = str(run.folder)
        return Job(
            name=run.job_name(kind),
            commands=(
                (*self.kdasr, "train", "--config", str(conf), "--exp", exp),
                (*self.kdasr, "average", exp),
            ),
            settings={
                "options": settings,
                "data": self._digest((*run.config.data.train_parts, *run.config.data.dev_parts)),
            },
            needs=tuple(other.job_name("train") for other in run.needs),
            outputs=(run.folder / "checkpoints" / "averaged.pt",),
            folder=run.folder,
            files={conf: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)},
            reread=_reread,
        )

    def _decode_job(self, run: Run, kind: str) -> Job:
        parts = self.parts(kind)
        mode = "offline" if run.offline else "streaming"
        command = ("decode", str(run.folder), "--data", str(self.data), "--parts", " ".join(parts))
        return Job(
            name=run.job_name(kind),
            commands=((*self.kdasr, *command, "--mode", mode),),
            settings={"mode": mode, "parts": parts, "data": self._digest(parts)},
            needs=(run.job_name("train"),),
            outputs=tuple(run.folder / "decode" / mode / part / "summary.json" for part in parts),
        )

    def _digest(self, parts: Sequence[str]) -> str:
        key = tuple(parts)
        if key not in self.digests:
            self.digests[key] = data_digest(self.data, key)
        return self.digests[key]

    def parts(self, kind: str) -> list[str]:
        """The parts that are decoded to choose (`dev`) or to report (`test`)."""
        results = self.recipe.results
        return results.test_parts if kind == "test" else self.recipe.systems[results.bound].data.dev_parts


def _elders(run: Run) -> Iterator[Run]:
    """All that a run depends on, each after what it depends on itself."""
    for other in run.needs:
        yield from _elders(other)
        yield other


def _reread(settings: Settings) -> dict[str, Any]:
    """Settings of a training with the defaults of options that did not exist then."""
    config = build_config(ExperimentConfig, settings["options"], source="stamp")
    return {**settings, "options": asdict(config)}


def data_digest(data: Path, parts: Sequence[str]) -> str:
    """A digest of the manifests of some parts and of the word pieces.

    Raises:
        UserError: the folder is not prepared.
    """
    digest = hashlib.sha256()
    names = ["tokens/bpe.model", "feature_stats.json", *(f"cuts_{part}.jsonl.gz" for part in parts)]
    for path in (data / name for name in names):
        if not path.is_file():
            raise UserError(f"{path}: no such file: prepare the data first (stages 0 to 2 of run.sh)")
        content = path.read_bytes()
        # The packed form holds the time of packing.
        digest.update(gzip.decompress(content) if path.suffix == ".gz" else content)
    return digest.hexdigest()
