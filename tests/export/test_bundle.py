"""A bundle is whole or it is refused; exporting writes all of it or nothing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdasr.checkpoint import load_bundle
from kdasr.cli.export import command
from kdasr.common.errors import UserError
from kdasr.export import build
from kdasr.export.build import export_bundle, find_current
from kdasr.export.bundle import open_bundle, sha256
from kdasr.export.graph import JoinerGraph
from kdasr.export.runtime import load_exported
from kdasr.nn.context import Context


@pytest.fixture
def copy(student, tmp_path: Path) -> Path:
    return shutil.copytree(student.bundle.folder, tmp_path / "bundle")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["encoder.onnx", "joiner.int8.onnx", "tokens.txt"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["decoder.onnx", "tokens.txt"])
def test_a_file_of_another_export_is_named(copy: Path, name: str) -> None:
    path = copy / name
    if name == "tokens.txt":
        path.write_text(path.read_text(encoding="utf-8").replace(" 5\n", " 55\n"), encoding="utf-8")
    else:
        shutil.copy(copy / "encoder.onnx", path)
    with pytest.raises(UserError, match=f"{name}: not the file"):
        open_bundle(copy)


def test_another_version_is_named(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "version": 99, "kdasr": "7.1"}))
    with pytest.raises(UserError, match=r"version 99, exported by kdasr 7\.1"):
        open_bundle(copy)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": "something else"}'])
def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="not an exported bundle"):
        open_bundle(tmp_path)


def test_int8_that_was_not_exported(other) -> None:
    with pytest.raises(UserError, match="without int8"):
        load_exported(other.bundle.folder, int8=True)


def test_a_teacher_is_refused(student, tmp_path: Path) -> None:
    teacher = replace(student.system, context=Context.full(), name="teacher")
    with pytest.raises(UserError, match="'teacher' was trained with full context"):
        export_bundle(teacher, tmp_path / "out")
    assert not list(tmp_path.iterdir())


class WrongJoiner(JoinerGraph):
    """A graph that differs from the model."""

    def forward(self, encoded_NJ: torch.Tensor, predicted_NJ: torch.Tensor) -> torch.Tensor:
        return super().forward(encoded_NJ, predicted_NJ) + 2e-4


def test_a_graph_that_differs_from_the_model_is_not_written(
    student, same_encoder, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(copy.parent)
    monkeypatch.setattr(build, "JoinerGraph", WrongJoiner)
    with pytest.raises(UserError, match=r"float32 graphs differ from the model: joiner 0\.0002"):
        export_bundle(student.system, copy)
    assert everything(copy.parent) == before
    with pytest.raises(UserError, match="differ"):
        export_bundle(student.system, copy.parent / "new")
    assert everything(copy.parent) == before and not (copy.parent / "new").exists()


def test_folders_that_hold_something_else_are_refused(student, copy: Path, tmp_path: Path) -> None:
    (copy / "my-notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me too")
    with pytest.raises(UserError, match=r"my-notes\.txt"):
        export_bundle(student.system, copy)
    with pytest.raises(UserError, match="file of that name"):
        export_bundle(student.system, tmp_path / "file")
    with pytest.raises(UserError, match="averaged"):
        export_bundle(student.system, student.system.path.parent)
    assert (copy / "my-notes.txt").read_text() == "keep me"


def test_a_bundle_is_replaced_as_a_whole(student, same_encoder, copy: Path) -> None:
    assert find_current(student.system, copy, int8=True) is not None
    assert find_current(student.system, copy, int8=False) is None
    assert find_current(replace(student.system, train_steps=8), copy, int8=True) is None
    export_bundle(student.system, copy)
    assert not open_bundle(copy).has_int8
    names = {"README.md", "decoder.onnx", "encoder.onnx", "joiner.onnx", "manifest.json", "tokens.txt"}
    assert {path.name for path in copy.iterdir()} == names
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_the_card_says_what_the_student_is(student, same_encoder, tmp_path: Path) -> None:
    folder = shutil.copytree(student.folder, tmp_path / "exp")
    system = load_bundle(folder)
    (folder / "environment.json").write_text(json.dumps({"git": "0123abc"}))
    (folder / "config.yaml").write_text("data: {dir: /somewhere/data/demo, train_parts: [train-clean-100]}\n")
    summary = {"mode": "streaming", "wer": 12.345, "num_utterances": 96, "num_words": 590}
    summary |= {"context": str(system.context), "first_token_ms": {"mean": 149.7}}
    of_others = {
        "dev-clean": {"checkpoint_sha256": "older"},
        "dev-other": {"context": "left=2 chunk=1 right=0"},
    }
    for part in ("test-clean", *of_others):
        target = folder / "decode" / "streaming" / part
        target.mkdir(parents=True)
        row = {**summary, "part": part, "checkpoint_sha256": sha256(system.path), **of_others.get(part, {})}
        (target / "summary.json").write_text(json.dumps(row))
    bundle = export_bundle(system, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    # Windows of 19 feature frames: the last one ends at 180 + 17.5 ms, and sherpa-onnx waits for one more.
    for fact in (
        "left=8 chunk=4 right=0",
        "160 ms",
        "197.5 ms",
        "207.5 ms",
        "0123abc",
        "demo: train-clean-100",
    ):
        assert fact in card, fact
    assert "| test-clean | streaming | greedy | 12.35 | 150 | 96 | 590 |" in card
    assert "dev-" not in card and "/somewhere" not in card
    assert bundle.manifest["parity"]["float32"]["encoder"] < 1e-4
    assert [row["part"] for row in bundle.manifest["results"]] == ["test-clean"]


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["exp"], "--out"),
        (["one", "two", "--out", "x"], "one system"),
        (["--check", "bundle", "cuts", "--out", "x"], "leave out --out"),
        (["--check", "nowhere", "cuts"], "nowhere"),
    ],
)
def test_wrong_arguments_name_the_culprit(arguments: list[str], culprit: str) -> None:
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, UserError) and culprit in str(result.exception)
