"""Whether the k2 that is installed can run here, found out without risking the process.

A k2 wheel is built for exactly one torch version. Loaded under another, its extension may fail in any way its
loader likes, so the version that it was built for is read first, and a k2 that does not tell is imported in a
process of its own.
"""

import importlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import torch

TRIAL_SECONDS = 120
TRIAL = "import sys; sys.path[:] = sys.argv[1:]; import k2"


def load_k2() -> ModuleType:
    """Import k2.

    Raises:
        ModuleNotFoundError: it is not installed.
        ImportError: it does not run with this torch; the message says why.
    """
    folder = _find_k2()
    if folder is None:
        raise ModuleNotFoundError("k2 is not installed")
    built_for = torch_of_k2(folder)
    if built_for is not None and _release(built_for) != _release(torch.__version__):
        raise ImportError(
            f"k2 {k2_version()} was built for torch {_release(built_for)}, "
            f"this is torch {torch.__version__}; `make setup-k2` installs the build for it"
        )
    if built_for is None:
        _try_elsewhere()
    try:
        return importlib.import_module("k2")
    except Exception as error:
        # k2 raises ImportError for another CUDA than torch's; its loader OSError, RuntimeError, ...
        raise ImportError(f"k2 does not load: {_one_line(f'{type(error).__name__}: {error}')}") from error


def k2_version() -> str:
    """What the package says, or 'of unknown version'."""
    try:
        return importlib.metadata.version("k2")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def torch_of_k2(folder: Path) -> str | None:
    """The torch version that k2 was built for; None where nothing tells.

    k2's build leaves it in a file of the package. Failing that, current wheels have it in their own version
    (`1.24.4.dev20260625+cpu.torch2.11.0`), and older ones ask for it (`Requires-Dist: torch (==1.13.1)`).
    """
    record = folder / "torch_version.py"
    if record.is_file():
        found = re.search(r"""^k2_torch_version\s*=\s*["'](\d[^"']*)["']""", record.read_text(), re.MULTILINE)
        if found:
            return found[1]
    try:
        package = importlib.metadata.distribution("k2")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = re.search(r"\+.*\btorch(\d+(?:\.\d+)+)", package.version)
    if found:
        return found[1]
    for requirement in package.requires or []:
        found = re.match(r"torch\s*\(?==\s*(\d[\w.+]*)", requirement)
        if found:
            return found[1]
    return None


def _find_k2() -> Path | None:
    """The folder that k2 is imported from. None: there is no k2; a mere folder of that name is none."""
    try:
        spec = importlib.util.find_spec("k2")
    except ValueError:  # something else has put itself in its place
        return None
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def _release(version: str) -> str:
    return version.split("+")[0]


def _try_elsewhere() -> None:
    """Import k2 in another process, which may die of it."""
    command = [sys.executable, "-c", TRIAL, *sys.path]
    try:
        trial = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ImportError(f"k2 does not load: no end after {TRIAL_SECONDS} s") from error
    if trial.returncode < 0:
        raise ImportError(f"k2 does not load: importing it ends the process (signal {-trial.returncode})")
    if trial.returncode > 0:
        raise ImportError(f"k2 does not load: {_one_line(trial.stderr)}")


def _one_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "it does not say why"
