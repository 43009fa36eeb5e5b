"""Waiting for other processes without a collective operation, which would end after the time of its group."""

import time
from collections.abc import Callable

from kdasr.common.logging import get_logger

logger = get_logger(__name__)

LONGEST_POLL_SECONDS = 10.0
SAY_SECONDS = 300.0


def wait_until(is_there: Callable[[], bool], what: str) -> None:
    """Look again and again, and say now and then what for. The launcher ends it when a process is lost."""
    seconds, said = 0.1, time.monotonic()
    while not is_there():
        time.sleep(seconds)
        seconds = min(1.5 * seconds, LONGEST_POLL_SECONDS)
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            logger.info("waiting for %s", what)
