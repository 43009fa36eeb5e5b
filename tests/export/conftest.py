"""Exports that several files of tests look at; each takes seconds."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from export_helpers import save_student

from kdasr.bundle import Bundle
from kdasr.export import onnx_files
from kdasr.export.build import export_bundle
from kdasr.export.bundle import BundleFolder
from kdasr.nn.context import Context

CONTEXTS = [Context(left=6, chunk=2, right=3), Context(left=0, chunk=3)]


class Exported(NamedTuple):
    """A system, its experiment folder and its bundle."""

    system: Bundle
    folder: Path
    bundle: BundleFolder


def _export(folder: Path, context: Context, int8: bool) -> Exported:
    system = save_student(folder / "exp", context)
    return Exported(system, folder / "exp", export_bundle(system, folder / "bundle", int8=int8))


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A student without look-ahead, exported in float32 and int8."""
    return _export(tmp_path_factory.mktemp("student"), Context(left=8, chunk=4), int8=True)


@pytest.fixture(scope="session", params=CONTEXTS, ids=str)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Students with look-ahead, and without a left context, in float32."""
    return _export(tmp_path_factory.mktemp("other"), request.param, int8=False)


@pytest.fixture(scope="session", autouse=True)
def quick_exports(operators_once: None) -> None:
    """All exports here take the same lists of operators."""


@pytest.fixture
def same_encoder(student: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of this test are of the weights and context of `student`: its encoder's file is taken."""
    written = student.bundle.graph("encoder")
    monkeypatch.setattr(onnx_files, "write_encoder", lambda graph, features, path: shutil.copy(written, path))
