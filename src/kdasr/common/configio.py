"""Typed configuration from YAML: defaults in dataclasses, differences in files, typos refused."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from kdasr.common.choices import OptionChoice
from kdasr.common.errors import UserError
from kdasr.common.files import write_text
from kdasr.common.ranges import ANYTHING, Declared, check_ranges, declared_at, declared_fields

ConfigT = TypeVar("ConfigT")
Override = str | tuple[str, Any]
"""`KEY=VALUE`, or a dotted key and a value that has been read."""


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        UserError: the file is missing, is not YAML, or holds something other than a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file")
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # The loader passes on what it meets in a value: a date that no calendar has, a list as a key, ...
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a mapping of options, found {type(value).__name__}")
    return value


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which would take the last of two options of the same name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected the name of an option", key.start_mark
                )
            if key.value in names:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' twice", key.start_mark)
            if key.tag != "tag:yaml.org,2002:merge":
                names.add(key.value)
        return super().construct_mapping(node, deep)


def build_config(
    schema: type[ConfigT],
    *layers: Mapping[str, Any],
    overrides: Sequence[Override] = (),
    source: str = "configuration",
) -> ConfigT:
    """Merge `layers` (later ones win) and `overrides` (`a.b=c`, `list.0.d=e`) over the defaults of `schema`.

    The value of a text is taken as it stands, to its end, unless it is quoted; any other value is YAML. Lists
    are replaced as a whole, and so is a section whose `type` is another one than before (see
    `kdasr.common.choices`). Returns an instance of the dataclass `schema`, nested dataclasses included.

    Raises:
        UserError: an unknown key, a value of the wrong type, or one out of the range that is declared
            beside its field (see `kdasr.common.ranges`); the message names the key.
    """
    layers = tuple(_in_full(schema, layer, source) for layer in layers)
    try:
        merged = OmegaConf.structured(schema)
        for layer in layers:
            merged = _merge(merged, schema, layer, source)
        for override in overrides:
            merged = _override(merged, schema, override, source)
        check_ranges(
            schema, cast(dict[str, Any], OmegaConf.to_container(merged, resolve=True)), f"{source}: "
        )
        built = cast(ConfigT, OmegaConf.to_object(merged))
        OmegaConf.structured(built)  # a list that was merged may hold what it may not: only this looks at it
        return built
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or _first_refused(schema, layers) or "?"
        reason = str(getattr(error, "msg", None) or error).strip().splitlines()[0]
        raise UserError(f"{source}: option '{key}': {reason}") from None
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from None


def of_sections(overrides: Sequence[str], names: Container[str]) -> list[str]:
    """Those of some assignments `KEY=VALUE` whose key lies in one of the sections with these names."""
    return [word for word in overrides if word.partition("=")[0].partition(".")[0] in names]


def _override(config: Any, schema: type, override: Override, source: str) -> Any:
    """`config` with one assignment carried out; numbers in the key index lists."""
    if isinstance(override, str):
        key, equals, text = override.partition("=")
        if not key or not equals:
            raise UserError(f"{source}: override '{override}': expected KEY=VALUE")
        try:
            value = read_value(text, declared_at(schema, key))
        except (yaml.YAMLError, ValueError):
            raise UserError(f"{source}: override '{override}': the value is not YAML") from None
    else:
        key, value = override
    names = key.split(".")
    if any(name.isdigit() for name in names):
        # To OmegaConf, the options of a frozen dataclass are read-only already here.
        with flag_override(_holder(config, names), "readonly", False):
            OmegaConf.update(config, key, value, merge=False)
        return config
    for name in reversed(names):
        value = {name: value}
    return _merge(config, schema, _in_full(schema, value, source), source)


def _holder(config: Any, names: Sequence[str]) -> Any:
    """What holds the last of some nested options; `config` where they lead nowhere."""
    holder = OmegaConf.select(config, ".".join(names[:-1])) if names[:-1] else config
    return holder if OmegaConf.is_config(holder) else config


def _in_full(schema: type, layer: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """A layer without the short forms that a schema knows: its class method `in_full` writes them out."""
    in_full = getattr(schema, "in_full", None)
    try:
        return layer if in_full is None else in_full(layer)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _merge(config: Any, schema: type, layer: Mapping[str, Any], source: str) -> Any:
    """`config` with the options of a layer."""
    try:
        _choose_kinds(config, schema, layer)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return OmegaConf.merge(config, OmegaConf.create(dict(layer)))


def _choose_kinds(config: Any, schema: type, layer: Mapping[str, Any], key: str = "") -> None:
    """Replace each section of which the layer names another kind by that kind with its defaults."""
    for name, declared in declared_fields(schema).items():
        section, path = layer.get(name), f"{key}.{name}" if key else name
        if not is_dataclass(declared.type) or not isinstance(section, Mapping):
            continue
        if not issubclass(declared.type, OptionChoice):  # type: ignore[arg-type]
            _choose_kinds(config[name], declared.type, section, path)  # type: ignore[arg-type]
        elif section.get("type", config[name].type) != config[name].type:
            config[name] = OmegaConf.structured(declared.type.kind_of(section, path))  # type: ignore[union-attr]


def read_value(text: str, declared: Declared = ANYTHING) -> Any:
    """The value that some text stands for, as the value of an option with this declaration.

    A text is meant as it stands: `#`, `: `, `no` and `007` mean nothing else in it. Quotes around the whole
    of it are YAML's. Texts in a list are read likewise. Other values are YAML, and end where the text ends.

    Raises:
        YAMLError, ValueError: not YAML, or YAML with something behind it.
    """
    if declared.optional and text.strip() in ("null", "~", ""):
        return None
    loader = yaml.BaseLoader if str in (declared.type, declared.inner) else yaml.SafeLoader
    quoted = len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]
    if declared.type is str and not quoted:
        return text.replace("${", r"\${")  # no reference to another option
    node = yaml.compose(text, Loader=loader)
    rest = text if node is None else text[node.end_mark.index :]
    if rest.strip():  # a comment, to YAML
        if node is None or (isinstance(node, yaml.ScalarNode) and node.style is None):
            return text
        raise ValueError(f"'{rest.strip()}' after the value")
    return yaml.load(text, Loader=loader)


def _first_refused(schema: type, layers: Sequence[Mapping[str, Any]]) -> str | None:
    """The dotted name of the first option that does not fit; some of OmegaConf's errors do not say."""

    start = OmegaConf.structured(schema)

    def fits(path: list[str], value: Any) -> bool:
        for name in reversed(path):
            value = {name: value}
        try:
            OmegaConf.merge(start, OmegaConf.create(value))
        except OmegaConfBaseException:
            return False
        return True

    def search(path: list[str], value: Any) -> list[str]:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                if not fits([*path, name], inner):
                    return search([*path, name], inner)
        return path

    for layer in layers:
        try:
            _choose_kinds(start, schema, layer)
        except UserError:
            continue  # refused elsewhere, with a better message
        if path := search([], layer):
            return ".".join(path)
    return None


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config dataclass as plain containers, fit for YAML or a checkpoint."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True))


def save_yaml(config: Any, path: Path) -> None:
    """Write a config dataclass as YAML in one step."""
    write_text(path, yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
