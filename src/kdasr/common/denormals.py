"""Numbers too small for the processor's fast paths."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_as_zeros() -> Iterator[None]:
    """Let the processor take numbers below 1.2e-38 (float32) for 0 within the block, in this thread.

    The gradient of a lattice loss is full of them: products of small posteriors. Intel processors multiply
    each many times as slowly as other numbers. Afterwards they count again, as torch has it.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
