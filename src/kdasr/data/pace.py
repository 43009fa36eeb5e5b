"""How fast batches use up the training data: what turns epochs and hours of audio into steps."""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from lhotse import CutSet
from lhotse.cut import MonoCut

from kdasr.data.join import segments_of

SAMPLE = 200
"""Batches of the first epoch that are looked at; of an epoch with fewer, all."""


class Pace(NamedTuple):
    """Of batches, or of optimizer steps."""

    per_epoch: float
    """How many make a pass over the data."""
    hours: float | None
    """Audio of one of them, without the pauses that `data.join` adds; None: text has none."""

    def of_steps(self, batches_per_step: int) -> "Pace":
        """Of optimizer steps of so many batches, of all processes together."""
        hours = None if self.hours is None else self.hours * batches_per_step
        return Pace(self.per_epoch / batches_per_step, hours)

    def interleaved(self, others: "Pace", ratio: int) -> "Pace":
        """Of batches after each of which come `ratio` of the others. An epoch is still a pass over these."""
        hours = None
        if self.hours is not None and others.hours is not None:
            hours = (self.hours + ratio * others.hours) / (1 + ratio)
        return Pace(self.per_epoch * (1 + ratio), hours)


def pace_of(batches: Iterable[CutSet], epoch_seconds: float) -> Pace:
    """The pace of batches that no other process shares.

    Args:
        batches: the cuts of each batch of an epoch, joined or not. The first ones are a fair sample of them.
        epoch_seconds: duration of all utterances of the epoch, without pauses between them.
    """
    count, seconds = 0, 0.0
    for cuts in islice(batches, SAMPLE):
        count += 1
        seconds += sum(
            segment.duration for cut in cuts for segment in segments_of(cut) if isinstance(segment, MonoCut)
        )
    mean = seconds / count
    return Pace(epoch_seconds / mean, mean / 3600)
