"""From runs to their jobs: train and average, calibrate and decode dev, decode test.

Where a recipe has a language model, a job trains that first, and every decoding is there twice: by greedy
search, and with the model.
"""

import gzip
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kdasr.checkpoint import AVERAGED, FOLDER, find_checkpoint
from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.data.tokenizer import RULE_NAME
from kdasr.experiment.config import ExperimentConfig, LanguageModelExperiment
from kdasr.experiment.differences import identity_of, is_idle
from kdasr.nn.context import Context
from kdasr.study.plan import (
    UNDER_CONTEXTS,
    Planner,
    Run,
    needed_runs,
    other_contexts,
    weighs_labels,
)
from kdasr.study.recipe import Recipe
from kdasr.study.results_config import LANGUAGE_MODEL, WITH_LM
from kdasr.study.stamps import Settings, StampedJob

STAGES = ("dev", "test")
KDASR = (sys.executable, "-m", "kdasr")
STREAMS = 32
"""Utterances that are streamed in one batch: a quarter of the time, and tables need none with compute."""


@dataclass(frozen=True)
class Study:
    """A recipe in an experiment folder: makes the jobs of its runs."""

    planner: Planner
    kdasr: tuple[str, ...] = KDASR
    """The command that jobs call."""
    gpus: int = 0
    """Of each job: as many processes share out its training and its decoding. 0: one process trains where
    `training.accelerator` says, and decodes on the CPU."""
    plan_only: bool = False
    """Nothing will run: data that are not there are no error, and no job with them is finished."""
    digests: dict[tuple[str, ...], str] = field(default_factory=dict)
    """Of the data by parts, computed once."""
    made: dict[str, StampedJob] = field(default_factory=dict)
    """The jobs by name, made once."""

    @property
    def recipe(self) -> Recipe:
        """What the jobs are of."""
        return self.planner.recipe

    @property
    def data(self) -> Path:
        """The prepared data."""
        return self.planner.data

    @property
    def exp(self) -> Path:
        """The experiment folder."""
        return self.planner.exp

    def jobs(self, runs: Sequence[Run], upto: str) -> list[StampedJob]:
        """The jobs of runs, each after those it needs; test parts only with `upto` test."""
        jobs: dict[str, StampedJob] = {}
        if self.recipe.language_model is not None:
            if LANGUAGE_MODEL not in self.made:
                self.made[LANGUAGE_MODEL] = self._train_language_model()
            jobs[LANGUAGE_MODEL] = self.made[LANGUAGE_MODEL]
        for run in runs:
            for other in (*needed_runs(run), run):
                for kind in ("train", *self._decodings(other.row, upto)):
                    name = other.job_name(kind)
                    if name not in self.made:
                        self.made[name] = self._make(other, kind)
                    jobs[name] = self.made[name]
        return list(jobs.values())

    def _decodings(self, row: str, upto: str) -> list[str]:
        """The kinds of decoding of a row."""
        kinds = STAGES if upto == "test" and self.recipe.results.rows[row].test else STAGES[:1]
        found = [f"{kind}{variant}" for variant in self.recipe.decodings() for kind in kinds]
        if other_contexts(self.recipe.systems[row]):
            found += [f"{kind}{UNDER_CONTEXTS}" for kind in kinds]
        return found

    def _make(self, run: Run, kind: str) -> StampedJob:
        """The job `train` of a run; or `dev` or `test`, with one of `Recipe.decodings` behind."""
        if kind.endswith(UNDER_CONTEXTS):
            return self._decode_under_contexts(run, kind)
        return self._train(run) if kind == "train" else self._decode(run, kind)

    def _train_language_model(self) -> StampedJob:
        """Train the language model of the recipe.

        Raises:
            UserError: its text is not there, unless nothing will run.
        """
        options, config = self.recipe.results.language_model, self.recipe.language_model
        assert options is not None and config is not None
        text = self.data / options.text
        if not (text.is_file() or self.plan_only):
            raise UserError(f"{text}: no such file: the text that results.language_model is trained on")
        dev_parts = self.recipe.parts("dev")
        data = replace(config.data, dir=str(self.data), train_text=[str(text)], dev_parts=dev_parts)
        settings = asdict(replace(config, name=LANGUAGE_MODEL, data=data))
        conf = self.exp / "conf" / f"{LANGUAGE_MODEL}.yaml"
        return StampedJob(
            name=LANGUAGE_MODEL,
            commands=self._training(conf, self.planner.language_model),
            settings={
                "options": _identity(LanguageModelExperiment, settings),
                "data": self._digest(dev_parts),
                "text": sha256(text) if text.is_file() else "",
            },
            outputs=(self.planner.language_model / FOLDER / AVERAGED,),
            folder=self.planner.language_model,
            files={conf: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)},
            reread=partial(_reread, LanguageModelExperiment),
        )

    def _train(self, run: Run) -> StampedJob:
        settings = asdict(run.config)
        conf = self.exp / "conf" / f"{run.name}.yaml"
        data = run.config.data
        needs = [other.job_name("train") for other in run.needs]
        own = self.recipe.systems[run.row].unpaired
        if weighs_labels(self.recipe, own):
            needs.append(LANGUAGE_MODEL)
        return StampedJob(
            name=run.job_name("train"),
            commands=self._training(conf, run.folder),
            settings={
                "options": _identity(ExperimentConfig, settings),
                "data": self._digest((*data.train_parts, *own.parts, *data.dev_parts)),
                **_digest_of_text(own.language_model),
            },
            needs=tuple(needs),
            outputs=(run.folder / FOLDER / AVERAGED,),
            folder=run.folder,
            files={conf: yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)},
            reread=partial(_reread, ExperimentConfig),
        )

    def _decode(self, run: Run, kind: str) -> StampedJob:
        stage = kind.partition("-")[0]
        variant = kind.removeprefix(stage)
        parts = self.recipe.parts(stage)
        mode = "offline" if run.offline else "streaming"
        together = () if run.offline else ("--streams", str(STREAMS))
        where = ("--data", str(self.data), "--parts", " ".join(parts))
        command = ["decode", str(run.folder), *together, *self._as_trained(), *where]
        settings: dict[str, Any] = {"mode": mode, "parts": parts, "data": self._digest(parts)}
        if not run.offline:
            settings["streams"] = STREAMS
        needs = [run.job_name(need) for need in self._before(kind)]
        first = []
        if self.recipe.results.calibrate and kind == "dev":
            settings["calibrate"] = True
            first.append((*self.kdasr, "calibrate", str(run.folder), *where, *self._device()))
        if variant == WITH_LM:
            settings["search"] = search = self._search_with_lm()
            command += _as_options({"out": run.decoded(variant), "lm": self.planner.language_model, **search})
            needs.append(LANGUAGE_MODEL)
        elif variant:
            search, files = self._search(variant.removeprefix("-"))
            settings["search"] = {**search, **{name: _digest_of(path) for name, path in files.items()}}
            command += _as_options({"out": run.decoded(variant), **search, **files})
        launch = self._launch()
        if "tune" in settings.get("search", {}):
            command.append("--rescore")
            launch = self.kdasr  # weights are chosen by one process
        return StampedJob(
            name=run.job_name(kind),
            commands=(*first, (*launch, *command, "--mode", mode, *self._device())),
            settings=settings,
            needs=tuple(needs),
            outputs=tuple(run.decoded(variant) / mode / part / "summary.json" for part in parts),
        )

    def _decode_under_contexts(self, run: Run, kind: str) -> StampedJob:
        parts = self.recipe.parts(kind.removesuffix(UNDER_CONTEXTS))
        commands, outputs = [], []
        for context in run.other_contexts:
            mode, out = mode_under(context), run.decoded_under(context)
            where = ("--data", str(self.data), "--parts", " ".join(parts), "--out", str(out))
            how = ("--context", _as_option(context), "--mode", mode)
            together = () if context.is_full else ("--streams", str(STREAMS))
            command = ("decode", str(run.folder), *together, *self._as_trained(), *where, *how)
            commands.append((*self._launch(), *command, *self._device()))
            outputs += [out / mode / part / "summary.json" for part in parts]
        return StampedJob(
            name=run.job_name(kind),
            commands=tuple(commands),
            settings={
                "contexts": [asdict(context) for context in run.other_contexts],
                "parts": parts,
                "data": self._digest(parts),
                "streams": STREAMS,
            },
            needs=tuple(run.job_name(need) for need in self._before(kind)),
            outputs=tuple(outputs),
        )

    def _as_trained(self) -> tuple[str, ...]:
        """Nobody's calibration counts where the study makes none, whoever may have left one there."""
        return () if self.recipe.results.calibrate else ("--as-trained",)

    def _before(self, kind: str) -> tuple[str, ...]:
        """The kinds of jobs that a decoding of a run needs: the one on dev parts calibrates it."""
        return ("train", "dev") if self.recipe.results.calibrate and kind != "dev" else ("train",)

    def _training(self, conf: Path, exp: Path) -> tuple[tuple[str, ...], ...]:
        train = ("train", "--config", str(conf), "--exp", str(exp))
        return (*self._launch(), *train), (*self.kdasr, "average", str(exp))

    def _launch(self) -> tuple[str, ...]:
        """The command, in as many processes as a job has GPUs."""
        if self.gpus < 2:
            return self.kdasr
        count = ("--standalone", "--nproc-per-node", str(self.gpus), "--no-python")
        return (sys.executable, "-m", "torch.distributed.run", *count, *self.kdasr)

    def _device(self) -> tuple[str, ...]:
        return ("--device", "cuda") if self.gpus else ()

    def _search_with_lm(self) -> dict[str, str | float]:
        """Options of `kdasr decode` beside the language model's folder."""
        options = self.recipe.results.language_model
        assert options is not None
        weights: dict[str, str | float] = {"lm-scale": options.scale}
        if options.rescore:
            weights = {"tune": " ".join(self.recipe.parts("dev"))}
        return {"search": "beam", "beam": options.beam, **weights, "blank-penalty": options.blank_penalty}

    def _search(self, name: str) -> tuple[dict[str, str | float], dict[str, Path]]:
        """Options of `kdasr decode` for one of the recipe's searches: values, and files.

        Raises:
            UserError: a file is not there, unless nothing will run.
        """
        options = self.recipe.results.searches[name]
        values: dict[str, str | float] = {"search": "beam", "beam": options.beam}
        if options.blank_penalty is not None:
            values["blank-penalty"] = options.blank_penalty
        if options.lm:
            values["lm-scale"] = options.lm_scale
        named = {"lm": options.lm, "biasing": options.biasing}
        files = {option: self.data / place for option, place in named.items() if place}
        for option, path in files.items():
            if not (path.exists() or self.plan_only):
                raise UserError(f"{path}: not there: results.searches.{name}.{option} names it")
        return values, files

    def _digest(self, parts: Sequence[str]) -> str:
        key = tuple(parts)
        if key not in self.digests:
            try:
                self.digests[key] = data_digest(self.data, key)
            except UserError:
                if not self.plan_only:
                    raise
                self.digests[key] = ""
        return self.digests[key]


def mode_under(context: Context) -> str:
    """How `kdasr decode` decodes under a context: whole utterances under the full one."""
    return "offline" if context.is_full else "streaming"


def _as_option(context: Context) -> str:
    return str(context).replace(" ", ",")


def _as_options(values: Mapping[str, object]) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _digest_of(path: Path) -> str:
    """Of a file, or of the weights in a folder; empty where nothing is (see `Study.plan_only`)."""
    return sha256(find_checkpoint(path)) if path.exists() else ""


def _digest_of_text(language_model: str | None) -> dict[str, str]:
    """Of a word n-gram, which is its text; a folder is known by its name."""
    path = Path(language_model or "")
    return {"text": sha256(path)} if path.is_file() else {}


def _reread(schema: type[ExperimentConfig | LanguageModelExperiment], settings: Settings) -> dict[str, Any]:
    """Settings of a training with the defaults of options that did not exist then."""
    config = build_config(schema, settings["options"], source="stamp")
    return {**settings, "options": _identity(schema, asdict(config))}


def _identity(
    schema: type[ExperimentConfig | LanguageModelExperiment], options: dict[str, Any]
) -> dict[str, Any]:
    """The options that change the model; what lies in the data folder has a digest."""
    kept = identity_of(schema, options)
    data = {name: value for name, value in kept["data"].items() if name not in ("dir", "train_text")}
    objective = kept.get("objective", {})
    for name in [name for name in objective if is_idle(f"objective.{name}", options)]:
        del objective[name]
    return {**kept, "data": data}


def data_digest(data: Path, parts: Sequence[str]) -> str:
    """A digest of the manifests of some parts and of the word pieces.

    Raises:
        UserError: the folder is not prepared.
    """
    digest = hashlib.sha256()
    names = ["tokens/bpe.model", "feature_stats.json", *(f"cuts_{part}.jsonl.gz" for part in parts)]
    if (data / "tokens" / RULE_NAME).is_file():
        names.append(f"tokens/{RULE_NAME}")
    for path in (data / name for name in names):
        if not path.is_file():
            raise UserError(f"{path}: no such file: prepare the data first (stages 0 to 2 of run.sh)")
        # The packed form holds the time of packing. A manifest may be larger than the memory.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while content := file.read(1 << 20):
                digest.update(content)
    return digest.hexdigest()
