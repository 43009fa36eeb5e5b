"""Sections that come in kinds: which options they have, by their `type`."""

from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest

from kdasr.common.choices import OptionChoice
from kdasr.common.configio import build_config, config_to_dict
from kdasr.common.errors import UserError
from kdasr.common.ranges import MAY_CHANGE, at_least, check_options, declared_at, options_of
from kdasr.experiment.differences import identity_of


@dataclass
class Shape(OptionChoice):
    type: str = "round"


@dataclass
class Round(Shape):
    type: str = "round"
    radius: Annotated[float, at_least(0)] = 1.0


@dataclass
class Square(Shape):
    type: str = "square"
    side: Annotated[int, at_least(1)] = 2
    name: Annotated[str, MAY_CHANGE] = ""


@dataclass
class Drawing:
    shape: Shape = field(default_factory=Round)
    size: int = 1


@dataclass
class Page:
    drawing: Drawing = field(default_factory=Drawing)


def shape_of(*layers: dict[str, Any], overrides: tuple[str, ...] = ()) -> Shape:
    nested = [{"drawing": {"shape": layer}} for layer in layers]
    return build_config(Page, *nested, overrides=overrides, source="here.yaml").drawing.shape


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([], Round()),
        ([{"radius": 3.0}], Round(radius=3.0)),
        ([{"type": "round"}, {"radius": 3.0}], Round(radius=3.0)),
        ([{"type": "square", "side": 5}], Square(side=5)),
        ([{"type": "square", "side": 5}, {"name": "a"}], Square(side=5, name="a")),
        # Another kind knows nothing of what was said of the one before it.
        ([{"radius": 3.0}, {"type": "square"}], Square()),
        ([{"type": "square", "side": 5}, {"type": "round"}, {"type": "square"}], Square()),
        ([{"type": "square", "side": 5}, {"type": "square"}], Square(side=5)),
    ],
)
def test_the_type_says_which_options_there_are(layers: list[dict[str, Any]], expected: Shape) -> None:
    built = shape_of(*layers)
    assert built == expected and type(built) is type(expected)
    assert build_config(Page, config_to_dict(Page(Drawing(built)))) == Page(Drawing(built))


def test_overrides_choose_and_change_a_kind() -> None:
    assert shape_of(overrides=("drawing.shape.type=square", "drawing.shape.side=7")) == Square(side=7)
    # A text is taken as it stands also where only another kind than the default has the option.
    named = shape_of({"type": "square"}, overrides=("drawing.shape.name=007",))
    assert named == Square(name="007")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"type": "oval"}, "'drawing.shape.type' is oval; expected one of round, square"),
        ({"side": 3}, "'drawing.shape.side'"),
        ({"type": "square", "side": 3, "radius": 1.0}, "'drawing.shape.radius'"),
        ({"type": "square", "side": 0}, "'drawing.shape.side' is 0; expected at least 1"),
        ({"radius": -1}, "'drawing.shape.radius' is -1"),
    ],
)
def test_mistakes_name_the_option_and_the_source(layer: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=r"^here\.yaml: ") as caught:
        shape_of(layer)
    assert said in str(caught.value)


def test_checks_and_identities_go_by_the_kind() -> None:
    with pytest.raises(UserError, match=r"page\.drawing\.shape\.side' is 0"):
        check_options(Page(Drawing(Square(side=0))), "page")
    assert declared_at(Page, "drawing.shape.name").may_change
    assert not declared_at(Page, "drawing.shape.side").may_change
    options = config_to_dict(Page(Drawing(Square(side=4, name="a"))))
    assert identity_of(Page, options)["drawing"]["shape"] == {"type": "square", "side": 4}
    assert [path for path, _ in options_of(Page)][-2:] == ["drawing.shape.radius", "drawing.size"]
