"""Where the Triton kernels run: on CUDA tensors, when Triton is installed."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

_disabled = False


def disable() -> None:
    """Run torch's own operations from now on, in this process."""
    global _disabled
    _disabled = True


def are_used() -> bool:
    """Whether there are kernels that run on CUDA tensors."""
    return not _disabled and _module("kdasr.losses.lattice.triton_nodes") is not None


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def recursion_kernels(arcs: Tensor) -> Any:
    """`triton_recursion`, or None where `recursion` itself is to run."""
    return _module("kdasr.losses.pruned_rnnt.triton_recursion") if arcs.is_cuda and not _disabled else None


def node_kernels(logits: Tensor) -> Any:
    """`triton_nodes`, or None where torch's own operations are to run: they also take float64."""
    if _disabled or not logits.is_cuda or logits.dtype == torch.float64:
        return None
    return _module("kdasr.losses.lattice.triton_nodes")
