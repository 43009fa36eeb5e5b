"""Ctrl-C and SIGTERM ask training to stop after the current step; a second one stops it at once."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdasr.common.signals import handling_stops, ignore_stops

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
            return  # a data loader's worker that has not left the group yet (`leave_group`)
        self.asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def begin(self) -> None:
        """The stop has begun: a further signal is no news.

        torchrun sends one to the processes that still run, as soon as one of them has ended.
        """
        ignore_stops()

    @contextmanager
    def listening(self) -> Iterator["TrainingStop"]:
        """Catch SIGINT and SIGTERM within the block."""
        with handling_stops(self._on_signal):
            yield self
