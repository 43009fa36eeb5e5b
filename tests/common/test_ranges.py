"""Every option of every configuration says what it may be, and is held to it with the schema."""

import math
import re
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, get_origin

import pytest

from kdasr.common.choices import schema_for
from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.common.ranges import (
    Declared,
    Items,
    OneOf,
    Range,
    above,
    at_least,
    between,
    check_options,
    check_ranges,
    declared_fields,
    options_of,
)
from kdasr.experiment.config import ExperimentConfig, LanguageModelExperiment
from kdasr.study.results_config import ResultsConfig

ROOTS = (ExperimentConfig, LanguageModelExperiment, ResultsConfig)
OPTIONS = [(root, path, declared) for root in ROOTS for path, declared in options_of(root)]


def nested(path: str, value: Any) -> dict[str, Any]:
    """The configuration in which the option of this name has this value."""
    for name in reversed(path.split(".")):
        value = [value] if name == "0" else {name: value}
    return value


def beyond(limits: Range, whole: bool) -> list[float]:
    """Numbers next to the range, and those that are in none."""
    values: list[float] = [] if whole else [math.nan, -math.inf]
    if not whole and not limits.infinite:
        values.append(math.inf)
    if limits.lowest > -math.inf:
        values.append(limits.lowest if limits.above else limits.lowest - 1)
    if limits.highest < math.inf:
        values.append(limits.highest if limits.below else limits.highest + 1)
    return [int(value) for value in values] if whole else values


def allowed(declared: Declared, value: float) -> bool:
    """Whether a number is in the range of an option, if that has one."""
    return all(value in item for item in declared.constraints if isinstance(item, Range))


def in_list(declared: Declared, value: Any) -> Any:
    """A value that differs in one number from one that is allowed in all else."""
    if get_origin(declared.type) is dict:
        return {"x": value}
    if get_origin(declared.type) is not list:
        return value
    exactly = next((item.exactly for item in declared.constraints if isinstance(item, Items)), None)
    return [value] * (exactly or 1)


@pytest.mark.parametrize("root", ROOTS)
def test_every_number_has_a_range_and_every_list_says_how_many(root: type) -> None:
    options = list(options_of(root))
    for path, declared in options:
        kinds = [type(item) for item in declared.constraints]
        number = next((kind for kind in (declared.type, declared.inner) if kind in (int, float)), None)
        assert (Range in kinds) == (number is not None), f"{root.__name__}.{path}: a number needs a Range"
        assert (Items in kinds) == (get_origin(declared.type) is list), f"{root.__name__}.{path}: Items"
        assert OneOf not in kinds or declared.type in (str, list[str]), path
    assert len(options) > 15 and any("." in path for path, _ in options)


def section_of(root: type, path: str) -> type:
    """The class that declares the option of this dotted name."""
    for name in path.split(".")[:-1]:
        if name not in ("0", "*"):
            declared = declared_fields(root)[name]
            root = declared.inner if is_dataclass(declared.inner) else schema_for(declared.type, {})
    return root


def test_every_number_beyond_its_range_is_refused_by_name() -> None:
    """By the check of a whole configuration, and where its section is built; once for each section, where
    the whole is built, which takes as long as a hundred sections."""
    tried, built, sections = 0, set(), set()
    for root, path, declared in OPTIONS:
        section, name = section_of(root, path), path.rpartition(".")[2]
        by_name, by_path = (re.escape(f"option '{place}".replace("*", "x")) for place in (name, path))
        for limits in (item for item in declared.constraints if isinstance(item, Range)):
            for value in beyond(limits, whole=int in (declared.type, declared.inner)):
                given = in_list(declared, value)
                whole = nested(path.replace("*", "x"), given)
                with pytest.raises(UserError, match=by_path):
                    check_ranges(root, whole)
                if (root, section) not in sections:
                    sections.add((root, section))
                    with pytest.raises(UserError, match=by_path):
                        build_config(root, whole)
                if (section, name) not in built:
                    with pytest.raises(UserError, match=by_name):
                        build_config(section, {name: given})
                tried += 1
            built.add((section, name))
            for value in (limits.lowest, limits.highest):
                if value in limits:
                    check_ranges(root, nested(path, in_list(declared, value)))
    assert tried > 150


def test_lists_and_words_that_are_not_allowed_are_refused_by_name() -> None:
    for root, path, declared in OPTIONS:
        for constraint in declared.constraints:
            wrong: list[Any] = []
            words = [word for item in declared.constraints if isinstance(item, OneOf) for word in item.words]
            if isinstance(constraint, OneOf):
                listed = get_origin(declared.type) is list
                place = f"{path}.0" if listed else path
                with pytest.raises(UserError, match=re.escape(f"option '{place}' is zebra; expected one of")):
                    check_ranges(root, nested(path, ["zebra"] if listed else "zebra"))
            elif isinstance(constraint, Items):
                wrong += [[]] if constraint.at_least or constraint.exactly else []
                value = next(item for item in (*words, 0.75, 1, 2000, -3) if allowed(declared, item))
                wrong += [[value, value]] if constraint.unique else []
                wrong += [[value]] if constraint.exactly == 2 else []
                wrong += [[value + 1, value]] if constraint.ascending and allowed(declared, value + 1) else []
            for value in wrong:
                with pytest.raises(UserError, match=re.escape(f"option '{path}' is {value}")):
                    check_ranges(root, nested(path, value))


@dataclass
class Part:
    share: Annotated[float, between(0, 1, below=True)] = 0.5


@dataclass
class Whole:
    count: Annotated[int, at_least(1)] = 1
    rate: Annotated[float | None, above(0, infinite=True)] = None
    names: Annotated[list[str], Items(at_least=1)] = field(default_factory=lambda: ["a"])
    weights: Annotated[dict[str, float], at_least(0)] = field(default_factory=dict)
    parts: Annotated[list[Part], Items(unique=False)] = field(default_factory=list)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "f.yaml: option 'count' is 0; expected at least 1"),
        ({"rate": 0}, "f.yaml: option 'rate' is 0.0; expected above 0"),
        ({"rate": math.nan}, "f.yaml: option 'rate' is nan; expected above 0"),
        ({"weights": {"ctc": -1}}, "f.yaml: option 'weights.ctc' is -1.0; expected at least 0"),
        ({"parts": [{}, {"share": 1}]}, "option 'parts.1.share' is 1.0; expected at least 0 and below 1"),
        ({"names": []}, "option 'names' is []; expected at least 1"),
        ({"names": ["a", "b", "a"]}, "option 'names' is ['a', 'b', 'a']; a is there twice"),
    ],
)
def test_the_message_says_what_was_expected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build_config(Whole, values, source="f.yaml")


def test_what_is_in_the_range_is_taken_as_it_is() -> None:
    config = build_config(Whole, {"rate": math.inf, "weights": {"ctc": 0}, "parts": [{"share": 0}]})
    assert config == Whole(rate=math.inf, weights={"ctc": 0.0}, parts=[Part(0.0)])
    check_options(config, "whole")
    with pytest.raises(UserError, match=r"^option 'whole\.parts\.0\.share' is 2; expected"):
        check_options(Whole(parts=[Part(2)]), "whole")
