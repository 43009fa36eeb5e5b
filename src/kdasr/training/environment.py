"""What a run depended on besides its configuration: code, libraries, machine, command line."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdasr import __version__

LIBRARIES = ("torch", "torchaudio", "lhotse", "k2", "sentencepiece", "lightning-fabric", "numpy")


def describe_environment(*, backend: str, seed: int) -> dict[str, Any]:
    """Plain values for `environment.json`; a library or a git checkout that is absent is None."""
    return {
        "kdasr": __version__,
        "git": _git_hash(Path(__file__).resolve().parent),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "rnnt_backend": backend,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "command": sys.argv,
        "seed": seed,
    }


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_hash(folder: Path) -> str | None:
    """The commit of the checkout that holds this code, with `-dirty` when tracked files differ from it."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--dirty", "--exclude", "*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
