"""In which options two configurations differ, and which of them make another model."""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from kdasr.common.choices import schema_for
from kdasr.common.ranges import MAY_CHANGE, declared_fields

OF_A_TEACHER = ("follow", "follow_lead")
"""Options of `objective` that change nothing without a teacher."""


class Difference(NamedTuple):
    """An option in which two configurations differ."""

    key: str
    """Its dotted name."""
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def differences(old: Any, new: Any, key: str = "") -> Iterator[Difference]:
    """The options in which two configurations differ; a list of another length is one of them."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(name, old.get(name), new.get(name)) for name in {**old, **new}]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = [(str(index), *both) for index, both in enumerate(zip(old, new, strict=True))]
    else:
        if old != new:
            yield Difference(key, old, new)
        return
    for name, left, right in pairs:
        yield from differences(left, right, f"{key}.{name}" if key else name)


def identity_of(schema: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a configuration without those that change nothing of the model."""
    kept = {}
    for name, declared in declared_fields(schema).items():
        if MAY_CHANGE in declared.constraints or name not in options:
            continue
        value = options[name]
        nested = is_dataclass(declared.type) and isinstance(value, Mapping)
        kept[name] = identity_of(schema_for(declared.type, value), value) if nested else value
    return kept


def is_idle(key: str, options: Mapping[str, Any]) -> bool:
    """Whether an option, by its dotted name, changes nothing beside the others of its configuration."""
    section, _, name = key.rpartition(".")
    return section == "objective" and name in OF_A_TEACHER and options[section].get("teacher") is None
