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
    """Merge `layers` (later ones win) and `overrides` (`a.b=c`, `list.0.d=e`) over the defaults of `schema`.

    An override's value is YAML. Lists are replaced as a whole. Returns an instance of the dataclass
    `schema`, nested dataclasses included.

    Raises:
        UserError: an unknown key or a value of the wrong type; the message names the key.
    """
    try:
        merged = OmegaConf.structured(schema)
        for layer in layers:
            merged = OmegaConf.merge(merged, OmegaConf.create(dict(layer)))
        for override in overrides:
            merged = _override(merged, override, source)
        return cast(ConfigT, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or _first_refused(schema, layers) or "?"
        reason = str(getattr(error, "msg", None) or error).strip().splitlines()[0]
        raise UserError(f"{source}: option '{key}': {reason}") from None
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from None


def _override(config: Any, override: str, source: str) -> Any:
    """`config` with one assignment carried out; numbers in the key index lists."""
    key, equals, text = override.partition("=")
    if not key or not equals:
        raise UserError(f"{source}: override '{override}': expected KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{source}: override '{override}': the value is not YAML") from None
    names = key.split(".")
    if any(name.isdigit() for name in names):
        OmegaConf.update(config, key, value, merge=False)
        return config
    for name in reversed(names):
        value = {name: value}
    return OmegaConf.merge(config, OmegaConf.create(value))


def _first_refused(schema: type, layers: Sequence[Mapping[str, Any]]) -> str | None:
    """The dotted name of the first option that does not fit; some of OmegaConf's errors do not say."""

    def fits(path: list[str], value: Any) -> bool:
        for name in reversed(path):
            value = {name: value}
        try:
            OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(value))
        except OmegaConfBaseException:
            return False
        return True

    def search(path: list[str], value: Any) -> list[str]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if not fits([*path, name], inner):
                    return search([*path, name], inner)
        return path

    found = (search([], layer) for layer in layers)
    return next((".".join(path) for path in found if path), None)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain containers, fit for YAML or a checkpoint."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))


def save_yaml(config: Any, path: Path) -> None:
    """Write a config dataclass as YAML in one step."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
