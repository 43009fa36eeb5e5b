"""Fields of files that a decoding wrote: what must be there, and what an older version did not write yet."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from kdasr.common.errors import UserError

REQUIRED = object()
"""As `default` of a field that every version writes."""


@dataclass(frozen=True)
class Field:
    """One entry of an object in a file."""

    name: str
    fits: Callable[[Any], bool]
    """Whether a value is one of this kind."""
    default: Any = REQUIRED
    """What stands for it where an older version wrote none."""


def take_fields(found: Any, fields: Iterable[Field], where: str) -> tuple[dict[str, Any], list[str]]:
    """An object with every field, and the names of those that an older version did not write.

    Args:
        found: as it was read.
        fields: those that are looked at; others stay as they are.
        where: the file, and the place in it, for messages.

    Raises:
        UserError: not an object, a field that no version leaves out is missing, or a value is of another
            kind: the file is damaged.
    """
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: expected an object, found {found!r:.40}: damaged; decode again")
    values, lacking = dict(found), []
    for field in fields:
        if field.name in values:
            if not field.fits(values[field.name]):
                value = values[field.name]
                raise UserError(f"{where}: '{field.name}' is {value!r:.40}: damaged; decode again")
        elif field.default is REQUIRED:
            raise UserError(f"{where}: no '{field.name}': damaged; decode again")
        else:
            values[field.name] = field.default
            lacking.append(field.name)
    return values, lacking


def is_number(value: Any) -> bool:
    """A finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def is_count(value: Any) -> bool:
    """A whole number, not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_measured(value: Any) -> bool:
    """A number, or None: there was nothing to measure."""
    return value is None or is_number(value)


def is_interval(value: Any) -> bool:
    """Two numbers, or None where there was nothing to measure."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_measured, value))


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def is_summary(value: Any) -> bool:
    """Statistics of latencies by name, the mean among them."""
    return isinstance(value, Mapping) and "mean" in value and all(map(is_measured, value.values()))
