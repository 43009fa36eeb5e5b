import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.losses import pruned_rnnt
from kdasr.losses.pruned_rnnt import select_backend

FUNCTIONS = (
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "rnnt_loss",
    "get_rnnt_prune_ranges",
    "do_rnnt_pruning",
    "rnnt_loss_pruned",
    "mutual_information_recursion",
)


@pytest.fixture(autouse=True)
def fresh_choice() -> Iterator[None]:
    """Each test chooses anew, and leaves no stand-in for k2 behind."""
    select_backend.cache_clear()
    sys.modules.pop("k2", None)
    yield
    select_backend.cache_clear()
    sys.modules.pop("k2", None)


def install_k2(folder: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "k2.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))


def test_native_is_this_package() -> None:
    backend = select_backend("native")
    assert backend.name == "native"
    for name in FUNCTIONS:
        assert getattr(backend, name) is getattr(pruned_rnnt, name)


def test_auto_takes_k2_when_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "\n".join(f"def {name}(*args, **kwargs): return '{name}'" for name in FUNCTIONS)
    install_k2(tmp_path, source, monkeypatch)
    backend = select_backend("auto")
    assert backend.name == "k2"
    assert [getattr(backend, name)() for name in FUNCTIONS] == list(FUNCTIONS)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise OSError('undefined symbol: torch_something')", "undefined symbol"),
        ("rnnt_loss = None", "rnnt_loss_simple"),
    ],
)
def test_auto_falls_back_and_says_why(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    source: str,
    reason: str,
) -> None:
    install_k2(tmp_path, source, monkeypatch)
    monkeypatch.setattr(logging.getLogger("kdasr"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        assert select_backend("auto").name == "native"
    assert reason in caplog.text and "native" in caplog.text


def test_k2_on_demand_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_k2(tmp_path, "raise RuntimeError('built for another torch')", monkeypatch)
    with pytest.raises(UserError, match="built for another torch"):
        select_backend("k2")


def test_unknown_backend_is_named() -> None:
    with pytest.raises(UserError, match="'fast'"):
        select_backend("fast")
