"""`kdasr distill`: from an offline teacher to an exported streaming student, as a recipe and its jobs.

The recipe is an ordinary configuration, `distill/recipe.yaml` in the student's folder: everything can be
read there, and trained on by hand with `kdasr train`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdasr.checkpoint import Bundle, load_bundle
from kdasr.common.configio import config_to_dict, load_yaml
from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json, write_text
from kdasr.data.folder import load_record
from kdasr.data.tokenizer import Tokenizer
from kdasr.experiment.config import ExperimentConfig, load_experiment
from kdasr.experiment.run import build_model
from kdasr.experiment.student_start import Start, student_sizes, write_start
from kdasr.models.encoders.base import Geometry
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.study.jobs import KDASR, STREAMS
from kdasr.study.stamps import StampedJob

WORK = "distill"
"""Of the student's folder: recipe, first weights, what the teacher said of the dev parts, logs, stamps."""
RECIPE, ASKED = "recipe.yaml", "options.json"
TEACHER = "teacher"
HIDDEN_SHARE = 0.75
"""Of the steps, those of the first stage; as in the recipes that were measured."""
FEWEST_STEPS = 600
VALIDATIONS = 20
AVERAGED = 3
_SECTIONS = ("model", "data", "training", "objective")
"""Of a student's file."""


@dataclass(frozen=True, kw_only=True)
class DistillOptions:
    """What `kdasr distill` was asked for."""

    teacher: Path
    out: Path
    """The student's experiment folder."""
    data: Path
    """Prepared data, or where they are to be prepared."""
    chunk_ms: int = 320
    left_ms: int = 2560
    lookahead_ms: int = 0
    student: Path | None = None
    """A file with the options of the student that differ; None: the teacher's sizes."""
    passes: float = 8.0
    """How often the training data are heard, all stages together; at least `FEWEST_STEPS`."""
    processes: int = 1
    """Training processes, one per GPU."""
    overrides: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        """Where all lies that is not the student's own."""
        return self.out / WORK

    @property
    def recipe(self) -> Path:
        """The configuration that is trained."""
        return self.work / RECIPE

    @property
    def name(self) -> str:
        """Of the system."""
        return self.out.resolve().name

    def asked(self) -> dict[str, Any]:
        """What decides the student, as the next call compares it."""
        changes = {} if self.student is None else load_yaml(self.student)
        return {
            "--teacher": str(self.teacher.resolve()),
            "--chunk-ms": self.chunk_ms,
            "--left-ms": self.left_ms,
            "--lookahead-ms": self.lookahead_ms,
            "--student": changes,
            "--passes": self.passes,
            "--override": list(self.overrides),
        }


def check_folder(options: DistillOptions) -> None:
    """Refuse a folder that holds something else, or a student of other options.

    Raises:
        UserError: naming the option, or what is there.
    """
    path, asked = options.work / ASKED, options.asked()
    if path.is_file():
        for name, value in read_object(path).items():
            if asked.get(name) != value:
                raise UserError(
                    f"{options.out} holds a student of {name} {value}, this is {name} {asked.get(name)}: "
                    "give another --out, or remove that folder"
                )
    elif (options.out / "checkpoints").exists():
        raise UserError(f"{options.out}: holds a model already; choose another folder")


def open_teacher(options: DistillOptions) -> Bundle:
    """
    Raises:
        UserError: no teacher there, or one that is the student itself.
    """
    if options.teacher.resolve() == options.out.resolve():
        raise UserError(f"--teacher and --out are the same folder: {options.out}")
    return load_bundle(options.teacher, as_trained=True)


def student_changes(options: DistillOptions) -> dict[str, Any]:
    """What the student's file says.

    Raises:
        UserError: no such file, or a section that is none of a student's.
    """
    changes = {} if options.student is None else load_yaml(options.student)
    for name, section in changes.items():
        if name not in _SECTIONS:
            raise UserError(f"{options.student}: section '{name}'; expected one of {', '.join(_SECTIONS)}")
        if not isinstance(section, Mapping):
            raise UserError(f"{options.student}: {name}: expected a mapping of options")
    return changes


def sizes_and_context(options: DistillOptions, teacher: TransducerConfig) -> tuple[TransducerConfig, Context]:
    """The student's sizes and its context.

    Raises:
        UserError: sizes that no model has, or times that are no frames of this encoder.
    """
    source = str(options.student or options.teacher)
    sizes = student_sizes(teacher, student_changes(options).get("model") or {}, source)
    sizes.encoder.check(sizes.num_features)
    geometry = sizes.geometry
    context = Context(
        left=_frames("--left-ms", options.left_ms, geometry),
        chunk=_frames("--chunk-ms", options.chunk_ms, geometry),
        right=_frames("--lookahead-ms", options.lookahead_ms, geometry),
    )
    sizes.encoder.check_context(context)
    return sizes, context


def _frames(option: str, milliseconds: int, geometry: Geometry) -> int:
    frame_ms = round(1000 * geometry.frame_seconds)
    if milliseconds % frame_ms:
        raise UserError(f"{option} {milliseconds}: the student's frames are {frame_ms} ms: give a multiple")
    return milliseconds // frame_ms


def data_section(teacher: Bundle, *, on_gpu: bool) -> dict[str, Any]:
    """How training data are prepared and served, and how their text is written.

    Utterances come one after another with pauses, at any level, as in a stream that goes on.
    """
    data: dict[str, Any] = {
        "max_duration": 600.0 if on_gpu else 60.0,
        "on_the_fly": on_gpu,
        "num_workers": 4 if on_gpu else 0,
        "join": {"enabled": True, "max_seconds": 30.0},
        "gain": {"probability": 0.3},
    }
    return {"data": data, "text": {"normalize": teacher.tokenizer.rule}}


def parts_of(data: Path) -> tuple[list[str], list[str], list[str]]:
    """The prepared parts to train on, to choose by, and to report beside those.

    Raises:
        UserError: none to train on, or none to choose by.
    """
    record = load_record(data) or {}
    names = list(record.get("parts", {}))
    train, dev, test = (
        [name for name in names if name.startswith(kind)] for kind in ("train", "dev", "test")
    )
    for kind, found in (("train", train), ("dev", dev)):
        if not found:
            raise UserError(f"{data}: no part named {kind}...: give --cuts {kind}=FILE_OR_FOLDER")
    return train, dev, test


def hours_of(data: Path, parts: Sequence[str]) -> float:
    """Hours of prepared parts, copies at other speeds not counted."""
    entries = [(load_record(data) or {})["parts"][part] for part in parts]
    return sum(entry["hours"] / max(1, len(entry["settings"]["speeds"])) for entry in entries)


def hours_to_hear(hours: float, seconds_per_step: float, passes: float) -> float:
    """Hours of audio of all stages together: so many passes, and no fewer than `FEWEST_STEPS`."""
    return round(max(passes * hours, FEWEST_STEPS * seconds_per_step / 3600), 3)


def write_recipe(options: DistillOptions, teacher: Bundle, base: Mapping[str, Any]) -> ExperimentConfig:
    """Write the recipe, unless it is there, and read it.

    Raises:
        UserError: options that cannot be trained; names them.
    """
    if not options.recipe.is_file():
        train, dev, _ = parts_of(options.data)
        recipe = _recipe(options, teacher, _merged(base, student_changes(options)), train, dev)
        write_text(options.recipe, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
        write_json(options.work / ASKED, options.asked())
    return load_experiment(options.recipe, options.name, options.overrides)


def _recipe(
    options: DistillOptions,
    teacher: Bundle,
    shared: Mapping[str, Any],
    train: list[str],
    dev: list[str],
) -> dict[str, Any]:
    sizes, context = sizes_and_context(options, teacher.model.config)
    data = {**shared["data"], "dir": str(options.data.resolve()), "train_parts": train, "dev_parts": dev}
    accumulate = ((shared.get("training") or {}).get("optim") or {}).get("accumulate", 1)
    seconds = data["max_duration"] * accumulate * options.processes
    hours = hours_to_hear(hours_of(options.data, train), seconds, options.passes)
    model = config_to_dict(sizes)
    del model["vocab_size"]
    objective = {"teacher": str(teacher.path.resolve()), "rnnt": {"warmup_steps": 0}}
    start = str(options.work.resolve() / "start")
    return {
        "data": data,
        "text": dict(shared["text"]),
        "model": model,
        "objective": _merged(objective, shared.get("objective") or {}),
        "training": _merged(_training(sizes, hours), shared.get("training") or {}),
        "report": {"teacher": TEACHER, "method": options.name},
        "systems": {options.name: {"contexts": [vars(context)], "stages": _stages(sizes, hours, start)}},
    }


def _peak(sizes: TransducerConfig) -> float:
    """The learning rate, of ScaledAdam for a Zipformer2 and of Muon for others."""
    return 0.01 if sizes.encoder.type == "zipformer2" else 2e-3


def _training(sizes: TransducerConfig, hours: float) -> dict[str, Any]:
    return {
        "log_every": 50,
        "validate_hours": hours / VALIDATIONS,
        "keep_last": AVERAGED,
        "optim": {
            "optimizer": "scaled-adam" if sizes.encoder.type == "zipformer2" else "muon",
            "learning_rate": _peak(sizes),
            "warmup_hours": 0.05 * hours,
        },
    }


def _stages(sizes: TransducerConfig, hours: float, start: str) -> list[dict[str, Any]]:
    losses = {"rnnt": 1.0, "ctc": 0.5, "hidden_mse": 12.0}
    hidden = {
        "name": "hidden",
        "num_hours": HIDDEN_SHARE * hours,
        "init_from": start,
        "loss_weights": losses,
    }
    output = {
        "name": "output",
        "num_hours": (1 - HIDDEN_SHARE) * hours,
        "learning_rate": _peak(sizes) / 2,
        "warmup_hours": 0.01 * hours,
        "loss_weights": {**losses, "output_kl": 0.1},
    }
    return [hidden, output]


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """`first` with the options of `second`, section by section."""
    merged = dict(first)
    for name, value in second.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def start_student(options: DistillOptions, config: ExperimentConfig, teacher: Bundle) -> Start:
    """Write the student's first weights.

    Raises:
        UserError: the data have other pieces than the teacher.
    """
    import torch

    tokenizer = Tokenizer.load(options.data / "tokens")
    if tokenizer.fingerprint != teacher.tokenizer.fingerprint:
        raise UserError(
            f"{options.data / 'tokens'}: not the pieces of the teacher {teacher.path}: run kdasr tokens "
            f"--data {options.data} --from {options.teacher / 'tokens'}"
        )
    torch.manual_seed(config.seed)
    student = build_model(config, tokenizer)
    return write_start(student, teacher, config.contexts[0], options.work / "start")


def list_jobs(options: DistillOptions, config: ExperimentConfig, teacher: Bundle) -> list[StampedJob]:
    """Training, decoding, export, check and report, each after what it needs."""
    _, dev, test = parts_of(options.data)
    out, data, parts = str(options.out), str(options.data), " ".join([*dev, *test])
    offline = "offline" if teacher.context.is_full else "streaming"
    train = ("train", "--config", str(options.recipe), "--system", options.name, "--exp", out)
    changed = tuple(word for override in options.overrides for word in ("--override", override))
    trainer = KDASR
    if options.processes > 1:
        count = str(options.processes)
        trainer = (KDASR[0], "-m", "torch.distributed.run", "--nproc-per-node", count, "-m", "kdasr")
    weights = options.out / "checkpoints" / "averaged.pt"
    export, heard = options.out / "export", options.work / TEACHER / "decode"
    cuts = tuple(str(options.data / f"cuts_{part}.jsonl.gz") for part in (test or dev))
    hear = (
        "decode",
        str(teacher.path),
        "--out",
        str(heard),
        "--data",
        data,
        "--parts",
        parts,
        "--mode",
        offline,
    )
    made = [
        (
            "Training: hidden states, then output distributions too",
            "train",
            [(*trainer, *train, *changed), (*KDASR, "average", out, "--last", str(AVERAGED))],
        ),
        (
            "Decoding",
            "decode-student",
            [
                (*KDASR, "calibrate", out, "--data", data, "--parts", " ".join(dev)),
                (*KDASR, "decode", out, "--data", data, "--parts", parts, "--streams", str(STREAMS)),
            ],
        ),
        (
            "Decoding",
            "decode-teacher",
            [(*KDASR, *hear)],
        ),
        ("Export", "export", [(*KDASR, "export", out, "--out", str(export), "--int8")]),
        ("Export", "check-export", [(*KDASR, "export", "--check", str(export), *cuts, "--against", out)]),
        (
            "Report",
            "report",
            [(*KDASR, "report", out, str(options.work / TEACHER), "--data", data)],
        ),
    ]
    needs = {
        "decode-student": ["train"],
        "export": ["decode-student"],
        "check-export": ["export"],
        "report": ["decode-student", "decode-teacher"],
    }
    outputs = {
        "train": [weights],
        "decode-student": [options.out / "decode" / "streaming" / part / "summary.json" for part in dev],
        "decode-teacher": [heard / offline / part / "summary.json" for part in dev],
        "export": [export / "manifest.json"],
        "report": [options.out / "report" / "index.html"],
    }
    recipe = options.recipe.read_text(encoding="utf-8")
    return [
        StampedJob(
            name=name,
            commands=commands,
            needs=needs.get(name, []),
            after=["check-export"] if name == "report" else [],
            stage=stage,
            settings={"commands": [list(command[len(KDASR) :]) for command in commands], "recipe": recipe},
            outputs=outputs.get(name, []),
        )
        for stage, name, commands in made
    ]


def summary_lines(options: DistillOptions) -> list[str]:
    """Word errors of teacher and student, the student's latency, and where everything is."""
    _, dev, test = parts_of(options.data)
    lines = []
    for part in [*dev, *test]:
        student = read_object(options.out / "decode" / "streaming" / part / "summary.json")
        found = sorted((options.work / TEACHER / "decode").glob(f"*/{part}/summary.json"))
        wers = [read_object(found[0])["wer"] if found else None, student["wer"]]
        teacher, own = ("-" if wer is None else f"{wer:.2f} %" for wer in wers)
        first = (student.get("first_token_ms") or {}).get("mean")
        delay = "" if first is None else f", first token after {first:.0f} ms"
        lines.append(f"{part}: WER of the teacher {teacher}, of the student {own}{delay}")
    lines.append(f"student: {options.out}; for sherpa-onnx: {options.out / 'export'}")
    lines.append(f"report: {options.out / 'report' / 'index.html'}")
    return lines
