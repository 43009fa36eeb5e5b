"""Requests to stop: SIGINT (Ctrl-C) and SIGTERM."""

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]
STDERR = 2
"""Its file descriptor."""


def use_signal_stack() -> None:
    """Let Python's handlers of signals run on a stack of their own.

    oneDNN's float32 products for AVX-512 (`jit_avx512_common_gemm_f32`, in torch) point the stack at a buffer
    on the heap while they run. A handler on that stack writes over the buffer and what lies before it: wrong
    products, and crashes in `free`. Python asks for another stack, and its faulthandler allocates one.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(file=STDERR)


@contextmanager
def handling_stops(handler: Handler, *further: signal.Signals) -> Iterator[None]:
    """Let `handler` have both signals within the block; the handlers that were there come back after it.

    So with `further` signals, unless they are ignored, as SIGHUP is below nohup.
    """
    use_signal_stack()
    heeded = [number for number in further if signal.getsignal(number) != signal.SIG_IGN]
    numbers = (signal.SIGINT, signal.SIGTERM, *heeded)
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, previous, strict=True):
            signal.signal(number, earlier)


def ignore_stops() -> None:
    """Take no notice of either signal from now on: all is saved, and the process is about to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def leave_group(worker: int = 0) -> None:
    """Take a data loader's worker out of the process group of its training; a `worker_init_fn`.

    Terminals, torchrun and those who run jobs send signals to whole groups. A training that is asked to stop
    still needs its workers to finish its step. It ends them itself, and they end when it is gone.
    """
    os.setpgrp()
