"""Reading NeMo's archives without writing or running anything that is in them."""

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
import yaml
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
_TOKENIZER = ".model"
_LARGEST = 64 << 20
"""Bytes of a configuration or of a tokenizer."""


@dataclass(frozen=True)
class NemoArchive:
    """What a `.nemo` file holds."""

    path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    """By NeMo's names, float32 where they are numbers with a fraction."""
    pieces: bytes
    """The serialized SentencePiece model."""


def read_nemo(path: Path) -> NemoArchive:
    """Read a `.nemo` file: a tar with a configuration, weights and a tokenizer.

    Its members are read where they are; nothing is unpacked. YAML is read by the safe loader, weights by
    torch's weights-only one.

    Raises:
        UserError: no such file, a damaged one, no archive of NeMo, or one with a member that an honest one
            does not have (a link, a device, a path that leads out of it).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        with tarfile.open(path) as archive:
            members = _members(archive, path)
            config = _config(_opened(archive, members, CONFIG, path).read(), path)
            pieces = _opened(archive, members, _tokenizer_name(config, members, path), path).read()
            weights = _weights(_opened(archive, members, WEIGHTS, path), path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged, or not a tar archive: {first_line(error).rstrip(':')}") from error
    return NemoArchive(path, config, weights, pieces)


def _members(archive: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """The files of an archive by their name."""
    members = {}
    for member in archive:
        place = PurePosixPath(member.name)
        if place.is_absolute() or ".." in place.parts or not (member.isfile() or member.isdir()):
            raise UserError(f"{path}: member '{member.name}' is a link, a device or leads out of it: refused")
        if member.isfile():
            if place.name in members:
                raise UserError(f"{path}: holds '{place.name}' twice")
            members[place.name] = member
    return members


def _opened(
    archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str, path: Path
) -> IO[bytes]:
    if name not in members:
        raise UserError(f"{path}: not an archive of NeMo: it has no {name}")
    if name != WEIGHTS and members[name].size > _LARGEST:
        raise UserError(f"{path}: {name} has {members[name].size} bytes; expected at most {_LARGEST}")
    file = archive.extractfile(members[name])
    assert file is not None, "only files are members"
    return file


def _config(content: bytes, path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {CONFIG} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: {CONFIG}: expected a mapping, found {type(config).__name__}")
    return config


def _tokenizer_name(config: Mapping[str, Any], members: Mapping[str, tarfile.TarInfo], path: Path) -> str:
    """The SentencePiece model that the configuration names, or the only one."""
    section = config.get("tokenizer")
    named = section.get("model_path") if isinstance(section, Mapping) else None
    if isinstance(named, str) and (name := named.removeprefix("nemo:").rpartition("/")[2]) in members:
        return name
    found = [name for name in members if name.endswith(_TOKENIZER)]
    if len(found) != 1:
        raise UserError(f"{path}: has {len(found)} SentencePiece models; expected one (other tokenizers: no)")
    return found[0]


def _weights(file: IO[bytes], path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Depending on the damage, torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ...
        raise UserError(f"{path}: {WEIGHTS}: damaged, or not weights alone: {first_line(error)}") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: {WEIGHTS} holds other things than weights")
    return {
        str(name): value.float() if value.is_floating_point() else value for name, value in content.items()
    }
