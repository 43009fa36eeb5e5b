"""Where the Triton kernels run: on CUDA tensors, when Triton is installed."""

import importlib
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor


@cache
def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def recursion_kernels(arcs: Tensor) -> Any:
    """`triton_recursion`, or None where `recursion` itself is to run."""
    return _module("kdasr.losses.pruned_rnnt.triton_recursion") if arcs.is_cuda else None


def node_kernels(logits: Tensor) -> Any:
    """`triton_nodes`, or None where torch's own operations are to run: they also take float64."""
    if not logits.is_cuda or logits.dtype == torch.float64:
        return None
    return _module("kdasr.losses.lattice.triton_nodes")
