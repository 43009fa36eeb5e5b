"""Requests to stop: SIGINT (Ctrl-C) and SIGTERM."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


@contextmanager
def handling_stops(handler: Handler, *further: signal.Signals) -> Iterator[None]:
    """Let `handler` have both signals within the block; the handlers that were there come back after it.

    So with `further` signals, unless they are ignored, as SIGHUP is below nohup.
    """
    heeded = [number for number in further if signal.getsignal(number) != signal.SIG_IGN]
    numbers = (signal.SIGINT, signal.SIGTERM, *heeded)
    previous = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, earlier in zip(numbers, previous, strict=True):
            signal.signal(number, earlier)
