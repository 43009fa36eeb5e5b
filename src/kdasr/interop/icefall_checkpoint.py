"""Reading icefall's checkpoints without running anything that is in them."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line

_WRAPPED = "module."
"""Before the names of weights that several processes trained."""


class _Placeholder:
    """Stands for an object of a class that is not known: takes anything and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "_Placeholder":
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class IcefallCheckpoint:
    """What a checkpoint of icefall says about its model."""

    path: Path
    weights: dict[str, Tensor]
    """By icefall's names."""
    average: dict[str, Tensor] | None = None
    """The mean of the weights since the start of the training."""
    options: dict[str, Any] = field(default_factory=dict)
    """The options of the training; none in a file of weights alone."""

    @property
    def has_options(self) -> bool:
        """Whether it is a checkpoint of a training, which says with what sizes it was begun."""
        return "num_encoder_layers" in self.options

    def count(self, name: str) -> int:
        """A whole number among the options.

        Raises:
            UserError: there is none.
        """
        value = self.options.get(name)
        if type(value) is not int or value < 1:
            raise UserError(f"{self.path}: {name} is {value!r:.40}; expected a number of batches")
        return value


def read_icefall(path: Path) -> IcefallCheckpoint:
    """Read `pretrained.pt`, `epoch-N.pt` or `checkpoint-N.pt`.

    The file is unpickled by torch's weights-only reader. Objects of classes that it does not know, such as
    paths and states of samplers, become placeholders that hold nothing.

    Raises:
        UserError: no such file, a damaged one, or not a checkpoint with a model.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        content = _load(path)
    except Exception as error:
        # Depending on the damage, torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ...
        if (asked := re.search(r"unsupported GLOBAL (\S+)", str(error))) is not None:
            raise UserError(
                f"{path}: loading it would run {asked.group(1)}, which no checkpoint needs: refused"
            ) from error
        raise UserError(f"{path}: damaged, or not a torch checkpoint: {first_line(error)}") from error
    model = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(model, Mapping) or not _are_weights(model):
        raise UserError(f"{path}: no checkpoint of icefall: it has no weights under 'model'")
    average = content.get("model_avg")
    options = {name: value for name, value in content.items() if isinstance(value, str | int | float | bool)}
    return IcefallCheckpoint(
        path,
        _unwrapped(model),
        _unwrapped(average) if _are_weights(average) else None,
        options if "num_encoder_layers" in options else {},
    )


def _load(path: Path) -> Any:
    """What the file holds, with placeholders."""
    # A file of torch before 1.6 is no archive, and only the reader says which classes are in it, one by one.
    is_archive = zipfile.is_zipfile(path)
    unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_archive else []
    while True:
        stand_ins = [(_stand_in(name), name) for name in unknown]
        try:
            with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
                return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            another = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
            if is_archive or another is None or another[1] in unknown:
                raise
            unknown.append(another[1])


def _stand_in(name: str) -> type:
    return PurePosixPath if name.endswith(".PosixPath") else _Placeholder


def _are_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(_WRAPPED): tensor.float() for name, tensor in weights.items()}


def averaged_since(earlier: IcefallCheckpoint, later: IcefallCheckpoint) -> dict[str, Tensor]:
    """The mean of the weights from one checkpoint to another, as icefall's `--use-averaged-model` has it.

    Both hold means since the start of training, over batches that are counted in periods.

    Raises:
        UserError: one without such a mean, another architecture, or the later one does not come later.
    """
    counts, averages = [], []
    for checkpoint in (earlier, later):
        if checkpoint.average is None:
            raise UserError(f"{checkpoint.path}: holds no running mean of the weights (model_avg)")
        period = checkpoint.count("average_period")
        counts.append(checkpoint.count("batch_idx_train") // period * period)
        averages.append(checkpoint.average)
    if counts[0] >= counts[1]:
        raise UserError(f"{later.path}: not later than {earlier.path}: {counts[1]} and {counts[0]} batches")
    share = counts[1] / (counts[1] - counts[0])
    first, last = averages
    if {name: value.shape for name, value in first.items()} != {n: v.shape for n, v in last.items()}:
        raise UserError(f"{later.path}: another architecture than {earlier.path}")
    return {
        name: (share * value.double() + (1 - share) * first[name].double()).float()
        for name, value in last.items()
    }
