"""From the rows of a recipe to runs, and from runs to jobs: train and average, decode dev, decode test.

Where a recipe has a language model, a job trains that first, and every decoding is there twice: by greedy
search, and with the model.
"""

import gzip
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.distillation.config import UnpairedConfig
from kdasr.experiment import ExperimentConfig, LanguageModelExperiment
from kdasr.report.trained_run import RunInfo
from kdasr.results.config import Recipe, with_learning_rate
from kdasr.results.stamps import Job, Settings

KDASR = (sys.executable, "-m", "kdasr")
STAGES = ("dev", "test")
LANGUAGE_MODEL = "lm"
"""The job that trains the recipe's language model, and its folder."""
WITH_LM = "-lm"
"""What a decoding with that model adds to the name of its job and folder."""


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
        if self._weighs(config):
            config.language_model = os.path.relpath(self.language_model, folder.parent)
        return config

    def _weighs(self, config: UnpairedConfig) -> bool:
        """Whether the recipe's language model weighs the labels of a system, as its file has it."""
        wanted = bool(config.parts) and config.labels.weights == "prior" and config.language_model is None
        return wanted and self.recipe.language_model is not None

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
        jobs: dict[str, Job] = {}
        if self.recipe.language_model is not None:
            jobs[LANGUAGE_MODEL] = self.made.setdefault(LANGUAGE_MODEL, self._language_model_job())
        for run in runs:
            for other in (*_elders(run), run):
                for kind in ("train", *self.decodings(other.row, stage)):
                    name = other.job_name(kind)
                    if name not in self.made:
                        make = self._train_job if kind == "train" else self._decode_job
                        self.made[name] = make(other, kind)
                    jobs[name] = self.made[name]
        return list(jobs.values())

    def decodings(self, row: str, stage: str) -> list[str]:
        """The kinds of decoding of a row up to a stage."""
        kinds = STAGES if stage == "test" and self.recipe.results.rows[row].test else STAGES[:1]
        variants = ("", WITH_LM) if self.recipe.language_model is not None else ("",)
        return [f"{kind}{variant}" for variant in variants for kind in kinds]

    def _language_model_job(self) -> Job:
        options, config = self.recipe.results.language_model, self.recipe.language_model
        assert options is not None and config is not None
        text = self.data / options.text
        if not text.is_file():
            raise UserError(f"{text}: no such file: the text that results.language_model is trained on")
        dev_parts = self.parts("dev")
        data = replace(config.data, dir=str(self.data), train_text=[str(text)], dev_parts=dev_parts)
        settings = asdict(replace(config, name=LANGUAGE_MODEL, data=data))
        conf = self.exp / "conf" / f"{LANGUAGE_MODEL}.yaml"
        return Job(
            name=LANGUAGE_MODEL,
            commands=self._training(conf, self.language_model),
            settings={"options": settings, "data": self._digest(dev_parts), "text": sha256(text)},
            outputs=(self.language_model / "checkpoints" / "averaged.pt",),
            folder=self.language_model,
            files={conf: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)},
            reread=partial(_reread, LanguageModelExperiment),
        )

    def _training(self, conf: Path, exp: Path) -> tuple[tuple[str, ...], ...]:
        train = ("train", "--config", str(conf), "--exp", str(exp))
        return (*self.kdasr, *train), (*self.kdasr, "average", str(exp))

    def _train_job(self, run: Run, kind: str) -> Job:
        settings = asdict(run.config)
        conf = self.exp / "conf" / f"{run.name}.yaml"
        data = run.config.data
        needs = [other.job_name("train") for other in run.needs]
        own = self.recipe.systems[run.row].unpaired
        if self._weighs(own):
            needs.append(LANGUAGE_MODEL)
        return Job(
            name=run.job_name(kind),
            commands=self._training(conf, run.folder),
            settings={
                "options": settings,
                "data": self._digest((*data.train_parts, *own.parts, *data.dev_parts)),
                **_digest_of_text(own.language_model),
            },
            needs=tuple(needs),
            outputs=(run.folder / "checkpoints" / "averaged.pt",),
            folder=run.folder,
            files={conf: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)},
            reread=partial(_reread, ExperimentConfig),
        )

    def _decode_job(self, run: Run, kind: str) -> Job:
        variant = WITH_LM if kind.endswith(WITH_LM) else ""
        parts = self.parts(kind.removesuffix(variant))
        mode = "offline" if run.offline else "streaming"
        command = ["decode", str(run.folder), "--data", str(self.data), "--parts", " ".join(parts)]
        settings: dict[str, Any] = {"mode": mode, "parts": parts, "data": self._digest(parts)}
        needs = [run.job_name("train")]
        if variant:
            settings["search"] = search = self._search_with_lm()
            flags = {"out": run.decoded(variant), "lm": self.language_model, **search}
            command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
            needs.append(LANGUAGE_MODEL)
        return Job(
            name=run.job_name(kind),
            commands=((*self.kdasr, *command, "--mode", mode),),
            settings=settings,
            needs=tuple(needs),
            outputs=tuple(run.decoded(variant) / mode / part / "summary.json" for part in parts),
        )

    def _search_with_lm(self) -> dict[str, str | float]:
        """Options of `kdasr decode` beside the language model's folder."""
        options = self.recipe.results.language_model
        assert options is not None
        return {
            "search": "beam",
            "beam": options.beam,
            "lm-scale": options.scale,
            "blank-penalty": options.blank_penalty,
        }

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


def _digest_of_text(language_model: str | None) -> dict[str, str]:
    """Of a word n-gram, which is its text; a folder is known by its name."""
    path = Path(language_model or "")
    return {"text": sha256(path)} if path.is_file() else {}


def _reread(schema: type[ExperimentConfig | LanguageModelExperiment], settings: Settings) -> dict[str, Any]:
    """Settings of a training with the defaults of options that did not exist then."""
    config = build_config(schema, settings["options"], source="stamp")
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
