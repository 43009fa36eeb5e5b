"""Typed configuration from YAML: defaults in dataclasses, differences in files, typos refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdasr.common.errors import UserError
from kdasr.common.files import write_text

ConfigT = TypeVar("ConfigT")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        UserError: the file is missing, is not YAML, or holds something other than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of options, found {type(value).__name__}")
    return value


def build_config(
    schema: type[ConfigT],
    *layers: Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str = "configuration",
) -> ConfigT:
    """Merge `layers` (later ones win) and dotted `overrides` (`a.b=c`) over the defaults of `schema`.

    Returns an instance of the dataclass `schema`, nested dataclasses included.

    Raises:
        UserError: an unknown key or a value of the wrong type; the message names the key.
    """
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(schema),
            *(OmegaConf.create(dict(layer)) for layer in layers),
            OmegaConf.from_dotlist(list(overrides)),
        )
        return cast(ConfigT, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        reason = str(getattr(error, "msg", None) or error).strip().splitlines()[0]
        raise UserError(f"{source}: option '{key}': {reason}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from None


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain containers, fit for YAML or a checkpoint."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))


def save_yaml(config: Any, path: Path) -> None:
    """Write a config dataclass as YAML in one step."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
