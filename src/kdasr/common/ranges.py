"""What an option may be, declared beside its field and checked with the schema.

```python
@dataclass
class RnntConfig:
    prune_range: Annotated[int, at_least(2)] = 5
    backend: Annotated[str, OneOf("auto", "k2", "native")] = "auto"
    parts: Annotated[list[str], Items(at_least=1)] = field(default_factory=lambda: ["train-clean-100"])
```

Every number of a configuration has a `Range`, every list its `Items`; a test goes over all of them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from kdasr.common.choices import OptionChoice, schema_for
from kdasr.common.errors import UserError


@dataclass(frozen=True)
class Range:
    """The numbers that an option may have; of a list or a mapping, each of its values. Never NaN."""

    lowest: float = -math.inf
    highest: float = math.inf
    above: bool = False
    """`lowest` itself is not allowed."""
    below: bool = False
    """`highest` itself is not allowed."""
    infinite: bool = False
    """Infinity is allowed, where it is in the range."""

    def __contains__(self, value: float) -> bool:
        if math.isnan(value) or (math.isinf(value) and not self.infinite):
            return False
        low = value > self.lowest if self.above else value >= self.lowest
        return low and (value < self.highest if self.below else value <= self.highest)

    def __str__(self) -> str:
        low = "" if self.lowest == -math.inf else f"{'above' if self.above else 'at least'} {self.lowest:g}"
        high = "" if self.highest == math.inf else f"{'below' if self.below else 'at most'} {self.highest:g}"
        return " and ".join(bound for bound in (low, high) if bound) or "a finite number"


def at_least(lowest: float, *, infinite: bool = False) -> Range:
    """`lowest` or more."""
    return Range(lowest, infinite=infinite)


MOST_LAYERS = 1000
LARGEST_SIZE = 1_000_000
"""Of a layer or a vocabulary. A larger one is a slip or damage, and ends in an overflow or without memory."""


def above(lowest: float, *, infinite: bool = False) -> Range:
    """More than `lowest`."""
    return Range(lowest, above=True, infinite=infinite)


def between(lowest: float, highest: float, *, above: bool = False, below: bool = False) -> Range:
    """From `lowest` to `highest`; with `above` or `below`, without the bound itself."""
    return Range(lowest, highest, above, below)


@dataclass(frozen=True)
class Items:
    """How many items a list may have, and which."""

    at_least: int = 0
    exactly: int | None = None
    unique: bool = True
    """No item twice."""
    ascending: bool = False
    """Each item at least as large as the one before it."""

    def refusal(self, values: list[Any]) -> str | None:
        """What is wrong with a list; None if nothing is."""
        if self.exactly is not None and len(values) != self.exactly:
            return f"{values}; expected {self.exactly} values"
        if len(values) < self.at_least:
            return f"{values}; expected at least {self.at_least}"
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if self.unique and twice is not None:
            return f"{values}; {twice} is there twice"
        if self.ascending and any(right < left for left, right in pairwise(values)):
            return f"{values}; expected the lowest first"
        return None


@dataclass(frozen=True)
class MayChange:
    """Of an option that changes nothing of the model: a run that has begun goes on with another value."""

    path: bool = False
    """It names data or a model: the same must lie there."""


MAY_CHANGE, MAY_MOVE = MayChange(), MayChange(path=True)


@dataclass(frozen=True)
class Experimental:
    """Of an option that no shipped recipe turns and no measurement supports. It may go."""


EXPERIMENTAL = Experimental()


class OneOf:
    """The words that an option may be."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"


Constraint = Range | Items | OneOf | MayChange | Experimental


class Declared(NamedTuple):
    """The type of an option and what is said beside it."""

    type: Any
    """Without the annotation, and without None of an option that may be left empty."""
    optional: bool
    constraints: tuple[Constraint, ...]

    @classmethod
    def of(cls, hint: Any) -> "Declared":
        """Read a type hint that may be `Annotated` and may allow None."""
        constraints: tuple[Constraint, ...] = ()
        if get_origin(hint) is Annotated:
            constraints = tuple(item for item in hint.__metadata__ if isinstance(item, Constraint))
            hint = hint.__origin__
        if get_origin(hint) not in (Union, UnionType):
            return cls(hint, False, constraints)
        kinds = [kind for kind in get_args(hint) if kind is not NoneType]
        return cls(kinds[0] if len(kinds) == 1 else hint, NoneType in get_args(hint), constraints)

    @property
    def may_change(self) -> bool:
        """Whether a run that has begun may have another value."""
        return any(isinstance(item, MayChange) for item in self.constraints)

    @property
    def inner(self) -> Any:
        """The type of the items of a list or of the values of a mapping; None of anything else."""
        return get_args(self.type)[-1] if get_origin(self.type) in (list, dict) else None


def declared_fields(schema: type) -> dict[str, Declared]:
    """The options of a configuration class, by name."""
    assert is_dataclass(schema)
    hints = get_type_hints(schema, include_extras=True)
    return {entry.name: Declared.of(hints[entry.name]) for entry in fields(schema)}


ANYTHING = Declared(Any, False, ())


def declared_at(schema: type, key: str) -> Declared:
    """What is declared of the option of this dotted name; any type where there is none."""
    declared = Declared(schema, False, ())
    for name in key.split("."):
        if is_dataclass(declared.type):
            declared = _options_of_all_kinds(declared.type).get(name, ANYTHING)  # type: ignore[arg-type]
        elif declared.inner is None:
            declared = ANYTHING
        else:
            kept = tuple(item for item in declared.constraints if isinstance(item, MayChange))
            inner = Declared.of(declared.inner)
            declared = inner._replace(constraints=inner.constraints + kept)
    return declared


def _options_of_all_kinds(schema: type) -> dict[str, Declared]:
    """`declared_fields`; of a section that comes in kinds, those of all kinds together."""
    if not issubclass(schema, OptionChoice):
        return declared_fields(schema)
    return {
        name: declared
        for kind in reversed(schema.kinds().values())
        for name, declared in declared_fields(kind).items()
    }


def check_options(config: Any, key: str) -> None:
    """`check_ranges` of an instance, for those who build one in Python; `key` is its dotted name.

    Raises:
        UserError: see `check_ranges`.
    """
    check_ranges(type(config), asdict(config), key=key)


def check_ranges(schema: type, values: Mapping[str, Any], source: str = "", key: str = "") -> None:
    """Refuse the first option whose value is not what is declared beside it.

    Args:
        schema: a configuration class.
        values: its options as plain containers; those that are absent are not checked.
        source: what the message begins with, such as `recipe.yaml: `.
        key: where `values` stand in the whole configuration, as a dotted name.

    Raises:
        UserError: names the option, its value and what was expected.
    """
    for name, declared in declared_fields(schema).items():
        if name not in values or values[name] is None:
            continue
        path = f"{key}.{name}" if key else name
        _check_value(declared, values[name], source, path)
        for step, item in _entries(values[name]):
            if is_dataclass(declared.inner) and isinstance(item, Mapping):
                check_ranges(declared.inner, item, source, f"{path}.{step}")  # type: ignore[arg-type]
        if is_dataclass(declared.type):
            check_ranges(schema_for(declared.type, values[name], path), values[name], source, path)


def _check_value(declared: Declared, value: Any, source: str, path: str) -> None:
    for constraint in declared.constraints:
        if isinstance(constraint, Items):
            refusal = constraint.refusal(list(value))
            if refusal is not None:
                raise UserError(f"{source}option '{path}' is {refusal}")
        if isinstance(constraint, Items | MayChange | Experimental):
            continue
        for step, item in _entries(value) if isinstance(value, Mapping | list) else [("", value)]:
            known = item in constraint.words if isinstance(constraint, OneOf) else item in constraint
            if not known:
                where = f"{path}.{step}" if step else path
                raise UserError(f"{source}option '{where}' is {item}; expected {constraint}")


def _entries(value: Any) -> list[tuple[str, Any]]:
    """The parts of a list or a mapping with their names; none of a plain value."""
    if isinstance(value, Mapping):
        return [(str(name), item) for name, item in value.items()]
    return [(str(index), item) for index, item in enumerate(value)] if isinstance(value, list) else []


def options_of(schema: type, key: str = "") -> Iterator[tuple[str, Declared]]:
    """All options of a configuration class and of the classes within it, by dotted names.

    An item of a list is named `0`, a value of a mapping `*`. Of a section that comes in kinds, those of the
    default kind.
    """
    for name, declared in declared_fields(schema).items():
        path = f"{key}.{name}" if key else name
        yield path, declared
        if is_dataclass(declared.type):
            yield from options_of(schema_for(declared.type, {}), path)
        elif is_dataclass(declared.inner):
            step = "0" if get_origin(declared.type) is list else "*"
            yield from options_of(declared.inner, f"{path}.{step}")  # type: ignore[arg-type]
