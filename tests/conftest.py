"""What every test shares: one thread, a tokenizer made once, and logs that reach pytest."""

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import tiny_tokenizer

torch.set_num_threads(1)
TESTS = Path(__file__).parent
FIRST = (
    "recipes/test_run",
    "recipes/test_lhotse_run.py",
    "study/test_distill.py",
    "study/test_study_cli.py",
    "export/test_zipformer2.py",
    "export/",
    "experiment/test_run_experiment.py",
    "training/test_resume",
    "training/test_gradients.py",
)
"""How the names of those files begin that take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: while one process works at them, others take over the many short ones."""

    def place(item: pytest.Item) -> int:
        name = item.path.as_posix().removeprefix(f"{TESTS.as_posix()}/")
        return next((number for number, begin in enumerate(FIRST) if name.startswith(begin)), len(FIRST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The 24 pieces of `kdasr.testing.tiny_tokenizer`, on the disk."""
    return tiny_tokenizer(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="session")
def operators_once() -> Iterator[None]:
    """torch.onnx lists its operators again for each graph that it writes, always with the same result."""
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (ONNXRegistry, "from_torchlib"),
            (utils, "_collect_all_valid_cia_ops_for_namespace"),
        ):
            if hasattr(owner, name):
                patch.setattr(owner, name, staticmethod(cache(getattr(owner, name))))
        yield


@pytest.fixture(autouse=True)
def logs_reach_pytest() -> Iterator[None]:
    """Undo `setup_logging` after a test that ran a command, so that `caplog` works in the next one."""
    yield
    root = logging.getLogger("kdasr")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.propagate = True
    root.setLevel(logging.NOTSET)
