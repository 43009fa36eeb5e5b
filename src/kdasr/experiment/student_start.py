"""A student made of its teacher: the sizes that it has, and the weights that it starts from."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kdasr.bundle import Bundle
from kdasr.checkpoint import FOLDER, save_checkpoint
from kdasr.common.configio import build_config, config_to_dict
from kdasr.data.tokenizer import copy_tokenizer
from kdasr.distillation.terms.hidden_mse import partner_layer
from kdasr.models.encoders.fast_conformer import FastConformerConfig
from kdasr.models.encoders.zipformer2 import Zipformer2Config
from kdasr.models.joiner import TANH
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

_OF_PREDICTIONS = ("predictor.", "joiner.", "simple_lm.")
"""Weights that mean something together with a predictor alone."""
_LAYER = re.compile(r"(?P<layers>.*\blayers)\.(?P<number>\d+)\.(?P<rest>.*)")


def student_sizes(teacher: TransducerConfig, changes: Mapping[str, Any], source: str) -> TransducerConfig:
    """The teacher's sizes with some changes.

    A Zipformer2 is causal, or it could not stream. A predictor that the changes do not name is stateless, of
    the width of the teacher's, or there would be no export; and an encoder that hears whole utterances only
    becomes a conformer of the same number and width of layers.

    Args:
        teacher: its configuration.
        changes: the `model` section of the student's file, which may name another type of encoder.
        source: what messages begin with.

    Raises:
        UserError: an option that there is not, or a value out of its range.
    """
    base = config_to_dict(teacher)
    if not isinstance(teacher.predictor, StatelessConfig):
        base["predictor"] = {"type": "stateless", "dim": teacher.predictor.output_dim}
    if isinstance(teacher.encoder, FastConformerConfig):
        base["encoder"] = {"type": "conformer", **_alike(teacher.encoder)}
    base["joiner_activation"] = TANH
    sizes = build_config(TransducerConfig, base, changes, source=source)
    if isinstance(sizes.encoder, Zipformer2Config) and "causal" not in (changes.get("encoder") or {}):
        sizes.encoder.causal = True
    return sizes


def _alike(encoder: FastConformerConfig) -> dict[str, int]:
    """Options of a conformer of these sizes."""
    return {name: getattr(encoder, name) for name in ("num_layers", "dim", "num_heads", "ffn_dim")}


@dataclass(frozen=True)
class Start:
    """What a student starts from."""

    path: Path
    copied: int
    """Parameters that are the teacher's; the others are random."""
    total: int

    def __str__(self) -> str:
        if self.copied == self.total:
            return f"all {self.total / 1e6:.2f} M parameters are the teacher's"
        return f"{self.copied / 1e6:.2f} of {self.total / 1e6:.2f} M parameters are the teacher's"


def write_start(student: Transducer, teacher: Bundle, context: Context, folder: Path) -> Start:
    """Write an experiment folder with the student's first weights.

    Weights that teacher and student have alike are copied; those of a Zipformer2 that is not causal become
    causal ones (`EncoderConfig.adapted`). Of an encoder with fewer or more layers than the teacher's, each
    gets the weights of the layer at the same relative depth. What has another shape stays as it is in
    `student`; so do predictor and joiner where these are of different kinds.
    """
    own = student.state_dict()
    found = weights_of_teacher(student, teacher.model)
    state = {**own, **found}
    copy_tokenizer(teacher.tokenizer, folder / "tokens")
    path = folder / FOLDER / "best.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        path,
        {
            "model_config": config_to_dict(student.config),
            "model": state,
            "context": asdict(context),
            "tokenizer_fingerprint": teacher.tokenizer.fingerprint,
            "system": "start",
            "train_steps": 0,
        },
    )
    parameters = {name: parameter.numel() for name, parameter in student.named_parameters()}
    copied = sum(count for name, count in parameters.items() if name in found)
    return Start(path, copied, sum(parameters.values()))


def weights_of_teacher(student: Transducer, teacher: Transducer) -> dict[str, Tensor]:
    """The teacher's weights by the student's names, where they have the student's shape."""
    source: Mapping[str, Tensor] = teacher.state_dict()
    if student.config.encoder.type == teacher.config.encoder.type:
        source = student.config.encoder.adapted(source)
    alike = student.config.predictor.type == teacher.config.predictor.type
    if not alike or student.config.joiner_activation != teacher.config.joiner_activation:
        source = {name: value for name, value in source.items() if not name.startswith(_OF_PREDICTIONS)}
    own = student.state_dict()
    depths, teacher_depths = _depths(own), _depths(source)
    found = {}
    for name, value in own.items():
        partner = name
        if (match := _LAYER.fullmatch(name)) and (layers := match["layers"]) in teacher_depths:
            number = partner_layer(int(match["number"]), depths[layers], teacher_depths[layers])
            partner = f"{layers}.{number}.{match['rest']}"
        if partner in source and source[partner].shape == value.shape:
            found[name] = source[partner]
    return found


def _depths(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Layers of every list of layers."""
    depths: dict[str, int] = {}
    for match in filter(None, map(_LAYER.fullmatch, state)):
        depths[match["layers"]] = max(depths.get(match["layers"], 0), int(match["number"]) + 1)
    return depths
