"""What every test shares: one thread, and small parts made once."""

from pathlib import Path

import pytest
import torch

from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import tiny_tokenizer

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The 24 pieces of `kdasr.testing.tiny_tokenizer`, on the disk."""
    folder: Path = tmp_path_factory.mktemp("tokens")
    return tiny_tokenizer(folder)
