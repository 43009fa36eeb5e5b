from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kdasr.common.configio import build_config, config_to_dict, load_yaml, save_yaml
from kdasr.common.errors import UserError


@dataclass
class Inner:
    size: int = 3
    names: list[str] = field(default_factory=lambda: ["a", "b"])


@dataclass
class Outer:
    rate: float = 0.5
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate is negative")


def test_later_layers_and_overrides_win_and_lists_are_replaced() -> None:
    config = build_config(
        Outer,
        {"rate": 1, "inner": {"names": ["c"]}},
        {"inner": {"size": 5}},
        overrides=["inner.size=6", "limit=2"],
    )
    assert config == Outer(rate=1.0, limit=2, inner=Inner(size=6, names=["c"]))
    assert isinstance(config.inner, Inner)


@pytest.mark.parametrize(
    ("layer", "key"),
    [
        ({"inner": {"sise": 1}}, "inner.sise"),
        ({"inner": {"size": "big"}}, "inner.size"),
        ({"x": 1}, "x"),
        ({"inner": 5}, "inner"),
        ({"inner": {"names": ["a", {}]}}, "inner.names[1]"),
        ({"inner": {"names": [[]]}}, "inner.names[0]"),
    ],
)
def test_mistakes_name_the_key_and_the_source(layer: dict, key: str) -> None:
    with pytest.raises(UserError) as caught:
        build_config(Outer, layer, source="here.yaml")
    assert f"'{key}'" in str(caught.value) and "here.yaml" in str(caught.value)


@dataclass
class Texts:
    dir: str = ""
    seed: int | None = None
    rate: float = 0.0
    init: str | None = "x"
    parts: list[str] = field(default_factory=list)
    rows: dict[str, Inner] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("override", "option", "value"),
    [
        ("dir=/my data #1", "dir", "/my data #1"),
        ("dir=#1", "dir", "#1"),
        ("dir=a: b", "dir", "a: b"),
        ("dir=no", "dir", "no"),
        ("dir=007", "dir", "007"),
        ("dir=1e3", "dir", "1e3"),
        ("dir=[a, b", "dir", "[a, b"),
        ("dir=/a=b", "dir", "/a=b"),
        ("dir=/a/${HOME}/b", "dir", "/a/${HOME}/b"),
        ("dir='/quoted #1'", "dir", "/quoted #1"),
        ('dir="it\'s"', "dir", "it's"),
        ("dir=", "dir", ""),
        ("init=null", "init", None),
        ("init=teacher #2", "init", "teacher #2"),
        ("seed=null", "seed", None),
        ("seed=7", "seed", 7),
        ("rate=5e-4", "rate", 5e-4),
        ("parts=['dev #1', no, 'b,c']", "parts", ["dev #1", "no", "b,c"]),
        ("rows.no.names=[007]", "rows", {"no": Inner(names=["007"])}),
        ("free.x=5", "free", {"x": 5}),
        ("free.x=a #1", "free", {"x": "a #1"}),
    ],
)
def test_a_text_is_taken_to_its_end_and_other_values_are_yaml(
    override: str, option: str, value: object
) -> None:
    assert getattr(build_config(Texts, overrides=[override]), option) == value


def test_overrides_that_have_been_read_are_taken_as_they_are() -> None:
    config = build_config(Texts, overrides=[("dir", "a #1"), ("parts", ["no"])])
    assert (config.dir, config.parts) == ("a #1", ["no"])


@pytest.mark.parametrize("override", ["parts=[a] # b", "seed=5 #", "seed=5 6", "dir", "=5", "parts=[a"])
def test_values_that_mean_nothing_are_refused(override: str) -> None:
    with pytest.raises(UserError, match=r"override|option 'seed'"):
        build_config(Texts, overrides=[override])


def test_an_option_twice_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  dir: a\n  seed: 1\n  dir: b\n")
    with pytest.raises(UserError, match=r"a\.yaml: not valid YAML: 'dir' twice.*line 4"):
        load_yaml(path)
    path.write_text("base: &base {dir: a}\none: {<<: *base, dir: b}\ntwo: {<<: *base}\n")
    assert load_yaml(path)["one"] == {"dir": "b"}


def test_what_a_dataclass_refuses_is_a_user_error() -> None:
    with pytest.raises(UserError, match="rate is negative"):
        build_config(Outer, {"rate": -1.0})


def test_a_config_survives_the_file(tmp_path: Path) -> None:
    config = Outer(rate=0.25, inner=Inner(names=["é"]))
    save_yaml(config, tmp_path / "a.yaml")
    assert build_config(Outer, load_yaml(tmp_path / "a.yaml")) == config
    assert config_to_dict(config)["inner"] == {"size": 3, "names": ["é"]}


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match=r"evil\.yaml"):
        load_yaml(path)


@pytest.mark.parametrize(
    "text", ["[1, 2]: x\n", "{a: 1}: x\n", "a: 2024-13-45\n", "a: 0x_\n", "&a [*a]: 1\n"]
)
def test_what_the_yaml_loader_stumbles_over_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"odd\.yaml: not valid YAML") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)
