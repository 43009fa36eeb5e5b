"""Collected as a project of its own only; `make test` walks past this folder, whether or not k2 is there."""

import importlib.util
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    if _is_own_project(config) and importlib.util.find_spec("k2") is None:
        pytest.exit(
            "the conformance suite needs k2: run `make test-k2`", returncode=pytest.ExitCode.USAGE_ERROR
        )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return None if _is_own_project(config) else True


def _is_own_project(config: pytest.Config) -> bool:
    return config.rootpath == Path(__file__).parent
