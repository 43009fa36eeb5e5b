"""From the rows of a recipe to runs, in the order of training."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from kdasr.distillation.objective_config import UnpairedConfig
from kdasr.study.jobs import KDASR, LANGUAGE_MODEL, WITH_LM, JobMaker, weighs_labels
from kdasr.study.planned_run import Run, elders
from kdasr.study.recipe import Recipe, with_learning_rate
from kdasr.study.stamps import Job

STAGES = ("dev", "test")


@dataclass(frozen=True)
class Planner:
    """Makes runs and jobs of a recipe's rows in an experiment folder."""

    recipe: Recipe
    data: Path
    exp: Path
    kdasr: tuple[str, ...] = KDASR
    """The command that jobs call."""
    made: dict[str, Job] = field(default_factory=dict)
    """The jobs by name, made once."""

    @cached_property
    def maker(self) -> JobMaker:
        """What makes the jobs."""
        return JobMaker(self.recipe, self.data, self.exp, self.kdasr)

    def run(self, row: str, seed: int, learning_rate: float | None) -> Run:
        """One row with one seed and one learning rate."""
        results = self.recipe.results
        name = row if learning_rate is None else f"{row}@{learning_rate:g}"
        folder = self.exp / f"seed-{seed}" / name
        config, init = self.recipe.systems[row], results.rows[row].init
        if learning_rate is not None:
            config = with_learning_rate(config, learning_rate)
        parent, proposal = results.parent(row), results.proposal(config)
        teacher = results.teacher(row, config)
        needs = {name: self._elder(name, seed) for name in results.needs(row, config)}
        # Beside the run's folder, so that the experiment may be moved as a whole.
        paths = {name: os.path.relpath(run.folder, folder.parent) for name, run in needs.items()}
        first = replace(config.stages[0], init_from=paths[parent] if parent else None)
        config = replace(
            config,
            name=row,
            seed=seed,
            data=replace(config.data, dir=str(self.data)),
            objective=replace(config.objective, teacher=paths[teacher] if teacher else None),
            unpaired=self._unpaired(config.unpaired, paths.get(proposal or ""), folder),
            stages=[first, *config.stages[1:]],
        )
        offline = config.contexts[0].is_full
        return Run(row, init, seed, learning_rate, folder, config, offline, tuple(needs.values()))

    def _unpaired(self, config: UnpairedConfig, proposal: str | None, folder: Path) -> UnpairedConfig:
        """With the paths of the row that proposes labels and of the recipe's language model."""
        config = replace(config, proposal=proposal or config.proposal)
        if weighs_labels(self.recipe, config):
            config.language_model = os.path.relpath(self.maker.language_model, folder.parent)
        return config

    def _elder(self, row: str, seed: int) -> Run:
        """The run of the teacher, or of one of the references, for runs with this seed."""
        shared = row in self.recipe.results.foundation()
        return self.run(row, self.teacher_seed(seed) if shared else seed, None)

    def teacher_seed(self, seed: int) -> int:
        """The seed of the teacher of students with this seed."""
        return seed if self.recipe.results.teacher_per_seed else self.recipe.results.seeds[0]

    def runs(self, rows: Sequence[str], rates: Mapping[str, float | None]) -> list[Run]:
        """Every row that has a learning rate in `rates`, with all its seeds, in the order of training."""
        results = self.recipe.results
        pairs = [(row, seed) for row in rows for seed in results.seeds_of(row)]
        if results.order == "seed":
            pairs.sort(key=lambda pair: results.seeds.index(pair[1]))
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
        jobs: dict[str, Job] = {}
        if self.recipe.language_model is not None:
            jobs[LANGUAGE_MODEL] = self.made.setdefault(LANGUAGE_MODEL, self.maker.train_language_model())
        for run in runs:
            for other in (*elders(run), run):
                for kind in ("train", *self.decodings(other.row, stage)):
                    name = other.job_name(kind)
                    if name not in self.made:
                        self.made[name] = self.maker.make(other, kind)
                    jobs[name] = self.made[name]
        return list(jobs.values())

    def decodings(self, row: str, stage: str) -> list[str]:
        """The kinds of decoding of a row up to a stage."""
        kinds = STAGES if stage == "test" and self.recipe.results.rows[row].test else STAGES[:1]
        variants = ("", WITH_LM) if self.recipe.language_model is not None else ("",)
        return [f"{kind}{variant}" for variant in variants for kind in kinds]
