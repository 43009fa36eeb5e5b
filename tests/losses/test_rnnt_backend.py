import importlib.metadata
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kdasr.cli import info
from kdasr.common.errors import UserError
from kdasr.losses import pruned_rnnt
from kdasr.losses.pruned_rnnt import select_backend
from kdasr.losses.pruned_rnnt.backend import FUNCTIONS, Backend, choose_backend

WORKING = "\n".join(f"def {name}(*args, **kwargs): return '{name}'" for name in FUNCTIONS)
# What would end the process that imports it.
DEADLY = "import os; os.abort()"
THIS_TORCH = torch.__version__.split("+")[0]


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    """Each test chooses anew, and leaves no stand-in for k2 behind."""
    installed = sys.modules.pop("k2", None)
    choose_backend.cache_clear()
    yield
    sys.modules.pop("k2", None)
    choose_backend.cache_clear()
    if installed is not None:
        sys.modules["k2"] = installed


class Installer:
    """Puts stand-ins for k2 where Python finds them, before any k2 that is really installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata("0.0")

    def package(self, source: str, built_for: str | None = None) -> None:
        package = self.folder / "k2"
        package.mkdir()
        (package / "__init__.py").write_text(source)
        if built_for:
            (package / "torch_version.py").write_text(
                f'# Generated\nk2_torch_version = "{built_for}"\nk2_torch_cuda_version = "11.7"\n'
            )

    def metadata(self, version: str, requires: str = "graphviz") -> None:
        folder = self.folder / "k2-0.0.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: k2\nVersion: {version}\nRequires-Dist: {requires}\n"
        )


@pytest.fixture
def k2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Installer(tmp_path)


def printed() -> str:
    """What `kdasr info` prints."""
    result = CliRunner().invoke(info.command)
    assert result.exit_code == 0, result.output
    return result.output


def test_native_is_this_package() -> None:
    backend = select_backend("native")
    assert backend.name == "native"
    for name in FUNCTIONS:
        assert getattr(backend, name) is getattr(pruned_rnnt, name)


def test_functions_are_those_of_a_backend() -> None:
    assert {"name", *FUNCTIONS} == set(Backend.__annotations__)


@pytest.mark.parametrize("built_for", [None, THIS_TORCH, f"{THIS_TORCH}+cu130"])
def test_auto_takes_k2_when_it_loads(k2: Installer, built_for: str | None) -> None:
    k2.package(WORKING, built_for)
    k2.metadata(f"1.24.4.dev20260625+cuda13.0.torch{THIS_TORCH}")
    backend = select_backend("auto")
    assert backend.name == "k2"
    assert [getattr(backend, name)() for name in FUNCTIONS] == list(FUNCTIONS)
    assert f"k2 (1.24.4.dev20260625+cuda13.0.torch{THIS_TORCH}, cpu and cuda)" in printed()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('undefined symbol: torch_something')", "undefined symbol: torch_something"),
        ("raise RuntimeError('one line\\nanother')", "another"),
        ("import sys; sys.exit(3)", "does not load"),
        (DEADLY, "ends the process (signal 6)"),
        ("rnnt_loss = None", "has no rnnt_loss_simple"),
    ],
)
def test_auto_falls_back_and_says_why(
    k2: Installer, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    """A k2 that does not tell which torch it was built for."""
    k2.package(source)
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        assert select_backend("auto").name == "native"
    assert reason in caplog.text and "native" in caplog.text
    assert "native (k2 " in printed() and reason in printed()


@pytest.mark.parametrize(
    ("built_for", "version", "requires"),
    [
        ("1.13.1+cu117", "1.23.4", "graphviz"),
        ("1.13.1", None, None),
        (None, "1.24.4.dev20260625+cpu.torch1.13.1", "torch (==1.13.1)"),
        (None, "1.24.4.dev20260625+cuda12.8.torch1.13.1", "graphviz"),
        (None, "1.23.4", "torch (==1.13.1)"),
        (None, "1.23.4", "torch==1.13.1"),
    ],
)
def test_k2_of_another_torch_is_not_imported(
    k2: Installer, built_for: str | None, version: str | None, requires: str | None
) -> None:
    k2.package(DEADLY, built_for)
    if version and requires:
        k2.metadata(version, requires)
    assert select_backend("auto").name == "native"
    reason = f"was built for torch 1.13.1, this is torch {torch.__version__}"
    assert reason in printed()
    with pytest.raises(UserError, match="k2") as refusal:
        select_backend("k2")
    assert reason in str(refusal.value) and "setup-k2" in str(refusal.value)


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("tells", ["module", "version"])
def test_auto_wants_a_k2_that_runs_on_the_gpu(
    k2: Installer, monkeypatch: pytest.MonkeyPatch, tells: str, has_gpu: bool
) -> None:
    k2.package(WORKING + ("\nwith_cuda = False" if tells == "module" else ""), THIS_TORCH)
    k2.metadata("1.25" if tells == "module" else f"1.25+cpu.torch{THIS_TORCH}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert select_backend("auto").name == ("native" if has_gpu else "k2")
    assert select_backend("k2").name == "k2"
    assert ("without CUDA" if has_gpu else "cpu only") in choose_backend("auto").reason


def test_absent_k2_is_no_warning(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        assert select_backend("auto").name == "native"
    assert [(r.levelname, "k2 is not installed" in r.getMessage()) for r in caplog.records] == [
        ("INFO", True)
    ]


def test_a_folder_called_k2_is_no_k2(k2: Installer, monkeypatch: pytest.MonkeyPatch) -> None:
    (k2.folder / "k2").mkdir()
    monkeypatch.setattr(sys, "path", [str(k2.folder)])
    assert choose_backend("auto").reason == "k2 is not installed"


def test_k2_on_demand_is_not_replaced(k2: Installer) -> None:
    k2.package("raise RuntimeError('built for another torch')")
    with pytest.raises(UserError, match="built for another torch"):
        select_backend("k2")


def test_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="'fast'"):
        select_backend("fast")


def test_info_prints_versions_devices_and_the_backend() -> None:
    rows = {line[:20].strip(): line[20:] for line in printed().splitlines()}
    assert rows["torch"] == importlib.metadata.version("torch")
    assert "threads" in rows["cpu"] and "torch" in rows["cuda"]
    assert rows["rnn-t loss"].startswith(choose_backend("auto").backend.name)
    assert rows["k2"]
