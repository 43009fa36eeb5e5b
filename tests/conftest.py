"""What every test shares: one thread, a tokenizer made once, and logs that reach pytest."""

import logging
from collections.abc import Iterator

import pytest
import torch

from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The 24 pieces of `kdasr.testing.tiny_tokenizer`, on the disk."""
    return tiny_tokenizer(tmp_path_factory.mktemp("tokens"))


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
