"""Checkpoints: one dictionary of plain values and tensors per file, read and written without pickle."""

import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdasr.common.configio import build_config
from kdasr.common.errors import SYSTEM_FOLDER, UserError
from kdasr.common.failures import first_line, is_disk_full
from kdasr.common.files import atomic_path
from kdasr.models.encoders.base import FIRST_TYPE
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig

FORMAT = "kdasr-checkpoint"
VERSION = 2
"""Raised when a payload changes its meaning; `_MIGRATIONS` bring those of earlier versions up to date."""
FOLDER = "checkpoints"
"""Of an experiment folder; holds `<stage>-<step>.pt`, `last.pt`, `best.pt` and `averaged.pt`."""
AVERAGED = "averaged.pt"
"""The name of the mean of a training's last checkpoints."""
AUTO_ORDER = ("averaged", "best", "last")
"""Which checkpoint stands for an experiment, the first one that exists."""
_REQUIRED = {
    **{"model_config": dict, "model": dict, "context": dict},
    **{"tokenizer_fingerprint": str, "system": str, "train_steps": int},
}
_KIND = {dict: "a mapping", str: "a text", int: "a whole number"}


def save_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """Write `payload` to `path`; a reader sees the old file or the new one, never half of one.

    Raises:
        UserError: the disk is full; the file that was at `path` is still there.
    """
    path = Path(path)
    complete = {"format": FORMAT, "version": VERSION, **payload}
    try:
        with atomic_path(path) as temporary, temporary.open("wb", buffering=1 << 20) as file:
            torch.save(complete, file)
            file.flush()
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        survivor = "the previous one is untouched" if path.exists() else "there is no earlier one"
        raise UserError(
            f"{path}: the disk is full, checkpoint not written; {survivor}. Free some space."
        ) from error


def refuse_model(exp_dir: Path) -> None:
    """Check that a new model may be written into a folder: no checkpoint is there.

    Raises:
        UserError: there is one.
    """
    if any((exp_dir / FOLDER).rglob("*.pt")):
        raise UserError(f"{exp_dir}: holds a model already; choose another folder")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this package onto the CPU.

    Raises:
        UserError: missing, truncated, not a checkpoint of kdasr, or of another version of the format.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    try:
        if is_zip:
            _check_digests(path)
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Depending on the damage, torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ...
        if is_zip:
            raise UserError(f"{path}: truncated or damaged checkpoint; use an earlier one") from error
        raise UserError(
            f"{path}: not a kdasr checkpoint (is it truncated, or another program's file?)"
        ) from error
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise UserError(f"{path}: a torch file, but not a kdasr checkpoint")
    version = payload.get("version")
    if type(version) is not int or (version != VERSION and version not in _MIGRATIONS):
        raise UserError(
            f"{path}: checkpoint version {version}, this kdasr reads {min(_MIGRATIONS)} to {VERSION}"
        )
    for key, kind in _REQUIRED.items():
        if key not in payload:
            raise UserError(f"{path}: checkpoint lacks '{key}'")
        if not isinstance(payload[key], kind) or isinstance(payload[key], bool):
            raise UserError(f"{path}: '{key}' is {payload[key]!r:.40}; expected {_KIND[kind]}")
    if payload["train_steps"] < 0:
        raise UserError(f"{path}: 'train_steps' is {payload['train_steps']}; expected 0 or more")
    while payload["version"] != VERSION:
        payload = _MIGRATIONS[payload["version"]](payload)
    return payload


def _check_digests(path: Path) -> None:
    """torch writes a checksum for each tensor and does not look at it: flipped bits would be other weights.

    Raises:
        zipfile.BadZipFile: a tensor, or the archive, is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


def _name_the_encoder(payload: dict[str, Any]) -> dict[str, Any]:
    """Version 1 to 2: the options of the encoder say of which type it is; there was one type."""
    model_config = payload["model_config"]
    if isinstance(model_config.get("encoder"), dict):  # a language model has none
        model_config = {**model_config, "encoder": {"type": FIRST_TYPE, **model_config["encoder"]}}
    return {**payload, "version": 2, "model_config": model_config}


_MIGRATIONS = {1: _name_the_encoder}
"""By the version that each takes; it gives the next one."""


def load_weights(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `module`.

    Raises:
        UserError: another architecture; names the first tensor that is missing, unknown or of another shape
            or kind. Or weights that are not finite.
    """
    _check_shapes(module, state, source)
    _check_finite(state, source)
    module.load_state_dict(dict(state))


def _check_shapes(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{source}: another architecture: it has no '{name}' {tuple(tensor.shape)}")
        if not isinstance(state[name], Tensor):
            raise UserError(f"{source}: '{name}' is {state[name]!r:.40}; expected a tensor")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{source}: another architecture: '{name}' is {tuple(state[name].shape)} there "
                f"and {tuple(tensor.shape)} in this model"
            )
        found = state[name]
        if found.is_complex() or found.is_floating_point() != tensor.is_floating_point():
            raise UserError(f"{source}: '{name}' holds {found.dtype}; expected {tensor.dtype}")
    for name, tensor in state.items():
        if name not in own:
            shape = tuple(tensor.shape) if isinstance(tensor, Tensor) else ""
            raise UserError(f"{source}: another architecture: its '{name}' {shape} is not in this model")


def load_model(path: Path) -> tuple[Transducer, dict[str, Any]]:
    """Build the model that a checkpoint describes, with its weights, in evaluation mode.

    Returns:
        The model on the CPU and the whole checkpoint.

    Raises:
        UserError: see `load_checkpoint`; also a checkpoint of something else, or a model section that does
            not fit the weights.
    """
    payload = load_checkpoint(path)
    if "encoder" not in payload["model_config"]:
        raise UserError(f"{path}: no recognizer; is it a language model? Those go with --lm")
    config = build_config(TransducerConfig, payload["model_config"], source=f"{path}: model_config")
    layers = getattr(config.encoder, "num_layers", 0)
    if layers > len(payload["model"]):  # each has weights; to build them all would fill the memory first
        raise UserError(f"{path}: another architecture: {layers} layers, {len(payload['model'])} weights")
    try:
        # First without memory: sizes of another model may need more than there is.
        with suppress(RuntimeError), torch.device("meta"):  # some encoder may compute while it is built
            _check_shapes(build_transducer(config), payload["model"], source=str(path))
        model = build_transducer(config)
    except (RuntimeError, MemoryError, OverflowError) as error:
        raise UserError(f"{path}: no model can be built of its model_config: {first_line(error)}") from error
    load_weights(model, payload["model"], source=str(path))
    return model.eval(), payload


def average_checkpoints(paths: Sequence[Path]) -> dict[str, Any]:
    """Average the weights of some checkpoints of one system.

    Floating tensors are averaged in float64; integer buffers, and all that is not a weight, come from the
    last one. The result holds no resume state.

    Raises:
        UserError: no paths, checkpoints of different architectures, or weights that are not finite.
    """
    if not paths:
        raise UserError("no checkpoints to average")
    sums: dict[str, Tensor] = {}
    payload: dict[str, Any] = {}
    for path in paths:
        payload = load_checkpoint(path)
        state: dict[str, Tensor] = payload["model"]
        _check_finite(state, path)
        if not sums:
            sums = {name: tensor.double() for name, tensor in state.items() if tensor.is_floating_point()}
            continue
        for name, total in sums.items():
            if name not in state or state[name].shape != total.shape:
                raise UserError(f"{path}: '{name}' differs from {paths[0]}; average one system's checkpoints")
            total += state[name].double()
    last: dict[str, Tensor] = payload["model"]
    averaged = {
        name: (sums[name] / len(paths)).to(tensor.dtype) if name in sums else tensor
        for name, tensor in last.items()
    }
    kept = {key: value for key, value in payload.items() if key != "trainer"}
    return {**kept, "model": averaged, "averaged_from": [Path(path).name for path in paths]}


def _check_finite(state: Mapping[str, Tensor], source: Path | str) -> None:
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source}: '{name}' is {tensor!r:.40}; expected a tensor")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{source}: '{name}' holds values that are not finite (nan or infinity)")


def find_checkpoint(reference: Path, checkpoint: str = "auto") -> Path:
    """The checkpoint file that an experiment folder, or a file, stands for.

    Args:
        reference: an experiment folder or a checkpoint file.
        checkpoint: for a folder: `auto` (averaged, else best, else last), one of these names, a file of its
            `checkpoints/`, or a path.

    Raises:
        UserError: nothing there.
    """
    reference = Path(reference)
    if reference.is_file():
        return reference
    if not reference.is_dir():
        raise UserError(f"{reference}: not there; expected {SYSTEM_FOLDER}, or a checkpoint file")
    folder = reference / FOLDER
    if checkpoint == "auto":
        candidates = [folder / f"{name}.pt" for name in AUTO_ORDER]
    else:
        candidates = [
            folder / f"{checkpoint}.pt",
            folder / checkpoint,
            reference / checkpoint,
            Path(checkpoint),
        ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if checkpoint == "auto":
        systems = sorted(path.parent.name for path in reference.glob(f"*/{FOLDER}"))
        hint = f"name one of its systems: {', '.join(systems)}" if systems else f"expected {SYSTEM_FOLDER}"
        raise UserError(
            f"{reference}: no trained model there ({FOLDER}/ has no averaged.pt, best.pt or last.pt); {hint}"
        )
    raise UserError(f"{reference}: no checkpoint '{checkpoint}' in {folder}")
