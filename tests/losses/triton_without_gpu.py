"""Triton's kernels on a machine without a GPU: run by its interpreter, and compiled for one.

Triton decides when it is imported whether kernels are interpreted, and the interpreter patches
`triton.language` while it runs. So it has a process of its own, and the tests' process stays as it is.
"""

import importlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch


class Interpreter:
    """Calls functions in a process in which kernels are interpreted."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def __call__(self, function: str, *arguments: Any) -> tuple[Any, tuple[Any, ...]]:
        """Result of `package.module.function`, and the arguments as it left them."""
        # Pickled here: left to the pool, tensors would go through shared memory.
        return pickle.loads(self.pool.submit(_call, pickle.dumps((function, arguments))).result())


@contextmanager
def start_interpreter() -> Iterator[Interpreter]:
    """A process for the interpreter, ended afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with patch.dict(os.environ, TRITON_INTERPRET="1"):
            pool.submit(_prepare).result()
        yield Interpreter(pool)


def compile_kernel(kernel: Any, types: dict[str, str], constants: dict[str, Any], num_warps: int) -> str:
    """Compile a kernel for an H100 or H200, down to machine code; needs no GPU.

    Args:
        kernel: a `triton.jit` function.
        types: Triton's names of the arguments' types; int32 for what is not named and not a constant.
        constants: values of the compile-time constants.
        num_warps: warps of a program.

    Returns:
        PTX.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = {p.name: "constexpr" if p.is_constexpr else types.get(p.name, "i32") for p in kernel.params}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    return triton.compile(source, GPUTarget("cuda", 90, 32), {"num_warps": num_warps}).asm["ptx"]


def _prepare() -> None:
    from triton.runtime import interpreter

    warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, about -inf - -inf
    patch_tensor: Callable[..., None] = interpreter._patch_lang_tensor

    def patch_tensor_for_new_numpy(tensor: Any, *arguments: Any) -> None:
        """Triton 3.6 makes loop bounds from arrays of one element, which numpy 2.4 refuses."""
        patch_tensor(tensor, *arguments)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor_for_new_numpy


def _call(request: bytes) -> bytes:
    function, arguments = pickle.loads(request)
    module, name = function.rsplit(".", 1)
    result = getattr(importlib.import_module(module), name)(*arguments)
    return pickle.dumps((result, arguments))
