"""From the rows of a recipe to runs, in the order of training."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import LABELS, UnpairedConfig
from kdasr.experiment.config import ExperimentConfig
from kdasr.nn.context import Context
from kdasr.study.recipe import Recipe
from kdasr.study.results_config import LANGUAGE_MODEL, ResultsConfig
from kdasr.study.trained_run import OWN, RunInfo
from kdasr.training.schedule_file import planned_steps

UNDER_CONTEXTS = "-contexts"
"""What decodings under further contexts add to the name of their job."""


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
        """The folder of a decoding; `variant`: one of `Recipe.decodings`."""
        return self.folder / f"decode{variant}"

    @property
    def other_contexts(self) -> list[Context]:
        """Further contexts that it is decoded under."""
        return other_contexts(self.config)

    def decoded_under(self, context: Context) -> Path:
        """The folder of a decoding under one of the further contexts."""
        return self.folder / "contexts" / context.folder_name

    def info(self) -> RunInfo:
        """What the report has to know of it."""
        steps = sum(planned_steps(config_to_dict(self.config)["stages"], self.folder).values())
        peak = self.config.stages[0].learning_rate or self.config.training.optim.learning_rate
        return RunInfo(self.row, self.init, self.seed, peak, steps, self.folder)


def other_contexts(config: ExperimentConfig) -> list[Context]:
    """Contexts beside the first one that a system is decoded under, each once: of one that draws them."""
    first, *others = config.contexts
    others = [context for context in dict.fromkeys(others) if context != first]
    return others if config.context_choice else []


def needed_runs(run: Run) -> Iterator[Run]:
    """All that a run depends on, each after what it depends on itself."""
    for other in run.needs:
        yield from needed_runs(other)
        yield other


@dataclass(frozen=True)
class Planner:
    """Makes the runs of a recipe's rows in an experiment folder."""

    recipe: Recipe
    data: Path
    exp: Path

    @property
    def language_model(self) -> Path:
        """The folder of the recipe's language model."""
        return self.exp / LANGUAGE_MODEL

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
        needs = {name: self._needed(name, seed) for name in results.needs(row, config)}
        # Beside the run's folder, so that the experiment may be moved as a whole.
        paths = {name: os.path.relpath(run.folder, folder.parent) for name, run in needs.items()}
        start = paths[parent] if parent else self._own_start(config, folder) if init == OWN else None
        first = replace(config.stages[0], init_from=start)
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

    def _own_start(self, config: ExperimentConfig, folder: Path) -> str:
        named = config.stages[0].init_from
        assert named is not None
        return os.path.relpath(self.exp / named, folder.parent)

    def _unpaired(self, config: UnpairedConfig, proposal: str | None, folder: Path) -> UnpairedConfig:
        """With the paths of the row that proposes labels and of the recipe's language model."""
        config = replace(config, proposal=proposal or config.proposal)
        if weighs_labels(self.recipe, config):
            config.language_model = os.path.relpath(self.language_model, folder.parent)
        return config

    def _needed(self, row: str, seed: int) -> Run:
        """The run of the teacher, or of one of the references, for runs with this seed."""
        shared = row in self.recipe.results.teacher_chain()
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
            for row in results.teacher_chain()
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


def weighs_labels(recipe: Recipe, config: UnpairedConfig) -> bool:
    """Whether the recipe's language model weighs the labels of a system, as the recipe has it."""
    labeled = bool(config.parts) and config.method == LABELS
    wanted = labeled and config.labels.weights == "prior" and config.language_model is None
    return wanted and recipe.language_model is not None


def with_learning_rate(config: ExperimentConfig, value: float) -> ExperimentConfig:
    """The same system with this peak learning rate in its first stage, and all others in proportion."""
    usual = config.training.optim.learning_rate
    first = config.stages[0].learning_rate
    scale = value / (usual if first is None else first)
    stages = [
        stage
        if stage.learning_rate is None
        else replace(stage, learning_rate=_tidy(scale * stage.learning_rate))
        for stage in config.stages
    ]
    optim = replace(config.training.optim, learning_rate=_tidy(scale * usual))
    return replace(config, stages=stages, training=replace(config.training, optim=optim))


def _tidy(value: float) -> float:
    """Without the dust of a product: 0.3 and not 0.30000000000000004."""
    return float(f"{value:.12g}")


def select_rows(results: ResultsConfig, names: Sequence[str]) -> list[str]:
    """The rows to train, in the order of the file; all for no names.

    The topline and what it descends from are always among them, and the baseline of what is recovered.

    Raises:
        UserError: no such row.
    """
    for name in names:
        if name not in results.rows:
            raise UserError(f"no row '{name}'; there are: {', '.join(results.rows)}")
    compared = results.baselines[:1] if results.summary == "recovered" else []
    wanted = {needed for name in (*names, results.topline, *compared) for needed in results.line(name)}
    return [name for name in results.rows if not names or name in wanted]
