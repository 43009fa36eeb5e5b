"""How far `kdasr label` is: a bar on a terminal, a line now and then in a log."""

import time

from kdasr.common.logging import console, get_logger
from kdasr.common.ranks import Ranks
from kdasr.labeling.run import Progress

log = get_logger(__name__)

SAY_SECONDS = 60.0
"""Between two lines of a log."""


class LabelProgress(Progress):
    """Hours of audio that are labeled, and how many of them an hour labels."""

    def __init__(self, name: str, done: float, total: float, ranks: Ranks) -> None:
        """
        Args:
            name: of the labeler.
            done: seconds of audio that are labeled already.
            total: seconds of all audio.
            ranks: several processes share it; only the first one speaks, of its own share.
        """
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._name, self._ranks = name, ranks
        # Of what others have in hand nothing is known: each counts its own share.
        self._begun, self._done, self._total = done, 0.0, max(0.0, total - done) / ranks.world_size
        self._given = 0.0
        """Seconds of audio of what is done that cost this run no time."""
        self._started = self._said = time.monotonic()
        self._bar = None
        if ranks.is_first and console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[pace]}"))
            self._bar = Bar(*columns, TimeRemainingColumn(), console=console, transient=True)
            self._task = self._bar.add_task(name, total=self._total, pace="")
            self._bar.start()

    def advance(self, seconds: float, by_earlier_run: bool = False) -> None:
        """So many seconds of audio more."""
        self._done += seconds
        self._given += seconds if by_earlier_run else 0.0
        if self._bar is not None:
            self._bar.update(self._task, advance=seconds, pace=self._pace())
        elif self._ranks.is_first and time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            log.info("%s: %s", self._name, self._pace())

    def finish(self) -> None:
        """Take the bar away, and say what it came to."""
        if self._bar is not None:
            self._bar.stop()
        if self._ranks.is_first:
            log.info("%s: labeled %s", self._name, self._pace())

    def _pace(self) -> str:
        elapsed = max(1e-3, time.monotonic() - self._started)
        share = "" if self._ranks.is_alone else " by this process"
        return (
            f"{self._done / 3600:.2f} of {self._total / 3600:.2f} h of audio{share}, "
            f"{(self._done - self._given) / elapsed:.1f} hours per hour"
        )
