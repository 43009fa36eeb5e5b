"""Ctrl-C and SIGTERM ask training to stop after the current step; a second one stops it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdasr.common.signals import handling_stops

INTERRUPT_EXIT_STATUS = 130


class TrainingInterrupted(Exception):  # noqa: N818 - a request, not an error
    """Training was asked to stop and has left a checkpoint. The message says how to go on."""


class TrainingStop:
    """Whether a signal has asked for a stop."""

    def __init__(self) -> None:
        self.asked = False
        self._process = os.getpid()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A data loader's worker inherits the handler. Ctrl-C reaches it too, but the loader ends it.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        self.asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    @contextmanager
    def listening(self) -> Iterator["TrainingStop"]:
        """Catch SIGINT and SIGTERM within the block."""
        with handling_stops(self._on_signal):
            yield self
