"""What the tests of Triton's kernels share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from triton_without_gpu import Interpreter, start_interpreter


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Interpreter]:
    """Calls functions with Triton's kernels interpreted, on CPU tensors."""
    with start_interpreter() as interpreter:
        yield interpreter


@pytest.fixture
def triton_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile every kernel anew, and leave nothing behind."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
