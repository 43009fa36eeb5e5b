"""`make setup-k2`: which version it asks for, and what it says where that cannot be had."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
THIS_TORCH = torch.__version__.split("+")[0]


@pytest.fixture
def setup_k2(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sys.modules.pop("setup_k2", None)
    return __import__("setup_k2")


def pip_that(monkeypatch: pytest.MonkeyPatch, returncode: int, output: str) -> list[list[str]]:
    """Stands in for pip; the commands that it is given."""
    commands = []

    def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, returncode, stdout=output, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


@pytest.mark.parametrize(
    ("build", "has_gpu", "expected"),
    [
        (None, False, f"1.24.4.dev20260625+cpu.torch{THIS_TORCH}"),
        ("", False, f"1.24.4.dev20260625+cpu.torch{THIS_TORCH}"),
        (None, True, f"1.24.4.dev20260625+cuda12.8.torch{THIS_TORCH}"),
        ("cpu", True, f"1.24.4.dev20260625+cpu.torch{THIS_TORCH}"),
        ("cuda12.6", False, f"1.24.4.dev20260625+cuda12.6.torch{THIS_TORCH}"),
        ("1.25+cpu.torch2.12.0", False, "1.25+cpu.torch2.12.0"),
    ],
)
def test_version_is_the_build_for_this_torch(
    setup_k2: ModuleType, monkeypatch: pytest.MonkeyPatch, build: str | None, has_gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert setup_k2.wanted_version(build) == expected


def test_readme_names_the_version_for_the_pinned_torch(setup_k2: ModuleType) -> None:
    pinned = re.search(r"^torch==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    version = f"{setup_k2.K2_VERSION}+cpu.torch{pinned[1]}"
    assert version in (ROOT / "docs" / "k2.md").read_text(encoding="utf-8")


def test_torch_stays_as_it_is(setup_k2: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pip_that(monkeypatch, 0, "")
    setup_k2.install("1.25+cuda12.8.torch2.11.0")
    assert "--no-deps" in commands[0] and "k2==1.25+cuda12.8.torch2.11.0" in commands[0]
    assert "https://k2-fsa.github.io/k2/cuda.html" in commands[0]


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "WARNING: Retrying after connection broken by X\nERROR: No matching distribution",
            "cannot be reached",
        ),
        ("ERROR: No matching distribution found for k2", "no such wheel"),
        ("something\nERROR: No space left on device", "No space left on device"),
    ],
)
def test_one_line_says_why_there_is_no_k2(
    setup_k2: ModuleType, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    pip_that(monkeypatch, 1, output)
    monkeypatch.setattr(sys, "argv", ["setup_k2.py", "cpu"])
    with pytest.raises(SystemExit) as end:
        setup_k2.main()
    message = str(end.value.code)
    assert reason in message and "native" in message and "+cpu.torch" in message
    assert len(message.splitlines()) == 1


def test_an_installed_k2_that_does_not_run_is_an_error(
    setup_k2: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip_that(monkeypatch, 0, "native (k2 does not load)\n")
    with pytest.raises(setup_k2.SetupError, match="not in use: native"):
        setup_k2.check()
    pip_that(monkeypatch, 0, "k2 (1.25, cpu only)\n")
    assert setup_k2.check() == "k2 (1.25, cpu only)"
