"""Which implementation of the pruned RNN-T functions runs: k2's or the native one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from kdasr.common.errors import UserError
from kdasr.losses.pruned_rnnt import full, pruned, pruning, recursion, simple
from kdasr.losses.pruned_rnnt.k2_probe import k2_version, load_k2

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "k2", "native")
FUNCTIONS = (
    "rnnt_loss_simple",
    "rnnt_loss_smoothed",
    "rnnt_loss",
    "get_rnnt_prune_ranges",
    "do_rnnt_pruning",
    "rnnt_loss_pruned",
    "mutual_information_recursion",
)


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


@dataclass(frozen=True)
class BackendChoice:
    """A backend, and why it is the one."""

    backend: Backend
    reason: str
    passes_over_k2: bool = False
    """A k2 is installed, and does not run here."""


@cache
def choose_backend(name: str = "auto") -> BackendChoice:
    """The pruned RNN-T functions of k2 or of this package.

    Args:
        name: auto (k2 when it runs here, on the GPU too if there is one; else native) | k2 | native.

    Raises:
        UserError: an unknown name, or `k2` where k2 does not load.
    """
    if name not in BACKENDS:
        raise UserError(f"rnnt backend '{name}': expected one of {', '.join(BACKENDS)}")
    if name == "native":
        return BackendChoice(NATIVE, "as asked")
    try:
        return _k2(must_run_everywhere=name == "auto")
    except ImportError as error:
        if name == "k2":
            raise UserError(f"rnnt backend 'k2': {error}; use 'auto' or 'native'") from error
        return BackendChoice(NATIVE, str(error), passes_over_k2=not isinstance(error, ModuleNotFoundError))


def select_backend(name: str = "auto", reason: str = "") -> Backend:
    """The backend of `choose_backend`, with its errors; the log says which, and why: `reason`, if given."""
    choice = choose_backend(name)
    level = logging.WARNING if choice.passes_over_k2 else logging.INFO
    logger.log(level, "pruned RNN-T: %s backend (%s)", choice.backend.name, reason or choice.reason)
    return choice.backend


def _k2(must_run_everywhere: bool) -> BackendChoice:
    """k2's functions.

    Raises:
        ImportError: k2 is not installed, does not load with this torch, lacks a function, or knows no CUDA
            where it `must_run_everywhere` and torch sees a CUDA device.
    """
    k2 = load_k2()
    missing = [name for name in FUNCTIONS if not hasattr(k2, name)]
    if missing:
        raise ImportError(f"k2 {k2_version()} has no {', '.join(missing)}")
    with_cuda = getattr(k2, "with_cuda", "+cpu" not in k2_version())
    devices = "cpu and cuda" if with_cuda else "cpu only"
    if must_run_everywhere and devices == "cpu only" and torch.cuda.is_available():
        raise ImportError(f"k2 {k2_version()} was built without CUDA, which torch has here")
    functions = {name: getattr(k2, name) for name in FUNCTIONS}
    return BackendChoice(Backend(name="k2", **functions), f"{k2_version()}, {devices}")
