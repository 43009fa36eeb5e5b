"""Which implementation of the pruned RNN-T functions runs: k2's or the native one."""

import importlib
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kdasr.common.errors import UserError
from kdasr.losses.pruned_rnnt import full, pruned, pruning, recursion, simple

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "k2", "native")


@dataclass(frozen=True)
class Backend:
    """k2's functions under their own names, with their own signatures."""

    name: str
    """k2 | native."""
    rnnt_loss_simple: Callable[..., Any]
    rnnt_loss_smoothed: Callable[..., Any]
    rnnt_loss: Callable[..., Any]
    get_rnnt_prune_ranges: Callable[..., Any]
    do_rnnt_pruning: Callable[..., Any]
    rnnt_loss_pruned: Callable[..., Any]
    mutual_information_recursion: Callable[..., Any]


NATIVE = Backend(
    name="native",
    rnnt_loss_simple=simple.rnnt_loss_simple,
    rnnt_loss_smoothed=simple.rnnt_loss_smoothed,
    rnnt_loss=full.rnnt_loss,
    get_rnnt_prune_ranges=pruning.get_rnnt_prune_ranges,
    do_rnnt_pruning=pruning.do_rnnt_pruning,
    rnnt_loss_pruned=pruned.rnnt_loss_pruned,
    mutual_information_recursion=recursion.mutual_information_recursion,
)


def _load_k2() -> Backend:
    """k2's functions.

    Raises:
        ImportError: k2 is not installed, does not load with this torch, or lacks a function.
    """
    if importlib.util.find_spec("k2") is None:
        raise ImportError("k2 is not installed")
    try:
        k2 = importlib.import_module("k2")
        functions = {name: getattr(k2, name) for name in Backend.__annotations__ if name != "name"}
    except Exception as error:
        # A k2 built for another torch fails with whatever its loader raises: OSError, RuntimeError, ...
        raise ImportError(f"k2 does not load: {type(error).__name__}: {error}") from error
    return Backend(name="k2", **functions)


@cache
def select_backend(name: str = "auto") -> Backend:
    """The pruned RNN-T functions of k2 or of this package; the log says which, and why.

    Args:
        name: auto (k2 when it loads, else native) | k2 | native.

    Raises:
        UserError: an unknown name, or `k2` where k2 does not load.
    """
    if name not in BACKENDS:
        raise UserError(f"rnnt backend '{name}': expected one of {', '.join(BACKENDS)}")
    if name == "native":
        logger.info("pruned RNN-T: native backend, as asked")
        return NATIVE
    try:
        backend = _load_k2()
    except ImportError as error:
        if name == "k2":
            raise UserError(f"rnnt backend 'k2': {error}; use 'auto' or 'native'") from error
        logger.info("pruned RNN-T: native backend (%s)", error)
        return NATIVE
    logger.info("pruned RNN-T: k2 backend")
    return backend
