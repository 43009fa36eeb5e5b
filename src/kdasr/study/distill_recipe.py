"""The recipe of `kdasr distill`: an ordinary configuration, `distill/recipe.yaml` in the student's folder.

Everything that was chosen can be read there, and trained by hand with `kdasr train`; only `--override` is in
`distill/options.json`, as it goes over the recipe.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdasr.bundle import Bundle
from kdasr.common.configio import build_config, config_to_dict, load_yaml, of_sections
from kdasr.common.errors import UserError
from kdasr.common.files import write_json, write_text
from kdasr.data.data_config import DataConfig
from kdasr.data.folder import load_record
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.recipe_file import load_experiment
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.study.distill_options import ASKED, TEACHER, DistillOptions, sizes_and_context, student_changes
from kdasr.training.training_config import TrainerConfig

HIDDEN_SHARE = 0.75
"""Of the audio, that of the first stage; as in the recipes that were measured."""
FEWEST_STEPS = 600
VALIDATIONS = 20
AVERAGED = 3


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


@dataclass
class AskedSections:
    """The sections of the recipe that decide how data are prepared and how much audio a step takes."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainerConfig = field(default_factory=TrainerConfig)


def asked_sections(options: DistillOptions, base: Mapping[str, Any]) -> AskedSections:
    """What `data_section` gave, with the changes of the student's file and of `--override`.

    Raises:
        UserError: an unknown key, a wrong type.
    """
    shared = _merged(base, student_changes(options))
    names = ("data", "training")
    own = of_sections(options.overrides, names)
    sections = {name: shared.get(name) or {} for name in names}
    return build_config(AskedSections, sections, overrides=own, source=str(options.recipe))


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
    """Write the recipe, unless it is there, and read it. One that is there follows the data to their folder.

    Raises:
        UserError: options that cannot be trained; names them.
    """
    if not (options.work / ASKED).is_file():
        train, dev, _ = parts_of(options.data)
        shared = _merged(base, student_changes(options))
        recipe = _recipe(options, teacher, shared, train, dev)
        write_text(options.recipe, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    recipe, place = load_yaml(options.recipe), str(options.data.resolve())
    if (data := recipe.setdefault("data", {})).get("dir") != place:
        data["dir"] = place
        write_text(options.recipe, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
    config = load_experiment(options.recipe, options.name, options.overrides)
    write_json(options.work / ASKED, options.asked())  # last: what is refused may be asked otherwise
    return config


def _recipe(
    options: DistillOptions,
    teacher: Bundle,
    shared: Mapping[str, Any],
    train: list[str],
    dev: list[str],
) -> dict[str, Any]:
    sizes, context = sizes_and_context(options, teacher.model.config)
    data = {**shared["data"], "dir": str(options.data.resolve()), "train_parts": train, "dev_parts": dev}
    asked = asked_sections(options, shared)
    seconds = asked.data.max_duration * asked.training.optim.accumulate * options.processes
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
        "validate_hours": round(hours / VALIDATIONS, 4),
        "keep_last": AVERAGED,
        "optim": {
            "optimizer": "scaled-adam" if sizes.encoder.type == "zipformer2" else "muon",
            "learning_rate": _peak(sizes),
            "warmup_hours": round(0.05 * hours, 4),
        },
    }


def _stages(sizes: TransducerConfig, hours: float, start: str) -> list[dict[str, Any]]:
    losses = {"rnnt": 1.0, "ctc": 0.5}
    hidden = {
        "name": "hidden",
        "num_hours": round(HIDDEN_SHARE * hours, 4),
        "init_from": start,
        "loss_weights": {**losses, "hidden_mse": 3.0},
    }
    output = {
        "name": "output",
        "num_hours": round((1 - HIDDEN_SHARE) * hours, 4),
        "learning_rate": _peak(sizes) / 2,
        "warmup_hours": round(0.01 * hours, 4),
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
