from dataclasses import dataclass, field
from pathlib import Path

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
    ],
)
def test_mistakes_name_the_key_and_the_source(layer: dict, key: str) -> None:
    with pytest.raises(UserError) as caught:
        build_config(Outer, layer, source="here.yaml")
    assert f"'{key}'" in str(caught.value) and "here.yaml" in str(caught.value)


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
