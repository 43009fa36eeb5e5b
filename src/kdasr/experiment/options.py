"""What a recipe can say: every option with its range, default and meaning, read from its declaration."""

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_origin

from kdasr.common.choices import OptionChoice
from kdasr.common.ranges import Declared, Experimental, declared_fields
from kdasr.experiment.config import ExperimentConfig


@dataclass(frozen=True)
class RecipeOption:
    """One option of a recipe."""

    key: str
    """Dotted name; `0` stands for an item of a list, `*` for a name of one's own."""
    kind: str
    """What may be written there: a type and its range."""
    default: str
    """As YAML would have it."""
    meaning: str
    """The text beside its declaration; empty where the name says it."""
    experimental: bool
    """No shipped recipe turns it and no measurement supports it."""


def recipe_options() -> list[RecipeOption]:
    """All options in their order; a section that comes in kinds has the options of each, marked `[kind]`."""
    return list(_options(ExperimentConfig, ""))


def _options(schema: type, prefix: str) -> Iterator[RecipeOption]:
    meanings = _meanings(schema)
    defaults = {entry.name: _default(entry) for entry in fields(schema)}
    for name, declared in declared_fields(schema).items():
        key = f"{prefix}{name}"
        if is_dataclass(declared.type):
            yield from _section(declared.type, key)  # type: ignore[arg-type]
        elif is_dataclass(declared.inner):
            step = "0" if get_origin(declared.type) is list else "*"
            yield from _options(declared.inner, f"{key}.{step}.")  # type: ignore[arg-type]
        else:
            marked = any(isinstance(item, Experimental) for item in declared.constraints)
            yield RecipeOption(key, _kind(declared), defaults[name], meanings.get(name, ""), marked)


def _section(schema: type, key: str) -> Iterator[RecipeOption]:
    if not issubclass(schema, OptionChoice):
        yield from _options(schema, f"{key}.")
        return
    kinds = schema.kinds()
    yield RecipeOption(f"{key}.type", f"one of {', '.join(kinds)}", schema.type, "The kind of it.", False)
    for name, kind in kinds.items():
        for option in _options(kind, f"{key}[{name}]."):
            if not option.key.endswith("].type"):
                yield option


def _kind(declared: Declared) -> str:
    ranges = [str(item) for item in declared.constraints if not _says_nothing(item)]
    origin = get_origin(declared.type)
    if origin is None:
        name = getattr(declared.type, "__name__", str(declared.type))
    else:
        inner = getattr(declared.inner, "__name__", str(declared.inner))
        name = f"list of {inner}" if origin is list else f"names with {inner}"
    words = ", ".join([name, *ranges]) if not any("one of" in text for text in ranges) else ranges[0]
    return f"{words}, or null" if declared.optional else words


def _says_nothing(constraint: object) -> bool:
    return type(constraint).__str__ is object.__str__ or "(" in str(constraint)[:40]


def _default(entry: "Field[Any]") -> str:
    value = entry.default
    if value is MISSING:
        if entry.default_factory is MISSING:
            return "(required)"
        value = entry.default_factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) if value != "" else '""'


@cache
def _meanings(schema: type) -> dict[str, str]:
    """By field, the text that follows it in the source of its class or of a class that it inherits from."""
    found: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        except OSError:  # put together while the program runs, out of sections that have their own source
            continue
        assert isinstance(body, ast.ClassDef)
        for field_node, text_node in zip(body.body, body.body[1:], strict=False):
            if not (isinstance(field_node, ast.AnnAssign) and isinstance(field_node.target, ast.Name)):
                continue
            if isinstance(text_node, ast.Expr) and isinstance(text_node.value, ast.Constant):
                found[field_node.target.id] = " ".join(str(text_node.value.value).split())
    return found
