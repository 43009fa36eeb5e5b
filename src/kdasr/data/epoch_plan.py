"""Which cuts come together in a batch, and in which order: planned from durations, pool by pool.

An epoch is a permutation of all cuts, so that parts, speakers and speeds are mixed from its begin to its end.
It is cut into pools of about `POOL` cuts, and only the batches of one pool are planned at a time: from the
cuts of that pool alone. So training can go on at any place of an epoch without what came before it.
"""

# Shapes: N cuts, P cuts of a pool.

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from lhotse.cut import MixedCut
from numpy.typing import NDArray

POOL = 20_000
"""Cuts of a pool. Of so many, batches of similar durations are full but for a handful."""
MOST_PROCESSES = 1 << 12

Item: TypeAlias = int | MixedCut
"""A row of the table, or a joined utterance of such rows (see `kdasr.data.join`)."""


class Planned(NamedTuple):
    """A batch that is still to be made."""

    number: int
    """Its own in the epoch, whatever the number of processes; its random numbers depend on it."""
    items: tuple[Item, ...]


class Position(NamedTuple):
    """A place in the endless sequence of batches: before the batch `offset` of a pool."""

    epoch: int = 0
    pool: int = 0
    offset: int = 0
    run: int = 1
    """Batches of similar durations that follow each other in this pool: one for each process."""
    step: int = 0
    """Batches that each process has had in this epoch."""


@dataclass(frozen=True)
class EpochPlanner:
    """The batches of every epoch. The same values plan the same batches."""

    num_cuts: int
    """They are known by their numbers, from 0."""
    seed: int
    max_seconds: float
    """Of a batch, padding included."""
    num_buckets: int
    items_of: Callable[[NDArray[np.int32], tuple[int, ...]], tuple[Sequence[Item], NDArray[np.float64]]]
    """Of the cuts of a pool and a seed: what is to be put into batches, and their seconds."""

    @property
    def num_pools(self) -> int:
        """Pools of an epoch."""
        return max(1, round(self.num_cuts / POOL))

    def batches(self, epoch: int, pool: int, run: int) -> list[Planned]:
        """The batches of a pool in their order."""
        order_N = _permutation(self.num_cuts, abs(self.seed), epoch)
        first, last = (len(order_N) * number // self.num_pools for number in (pool, pool + 1))
        items, seconds_P = self.items_of(order_N[first:last], (self.seed, epoch, pool))
        groups = batches_of(seconds_P, self.num_buckets, self.max_seconds)
        plans = [
            Planned((pool << 40) + number * MOST_PROCESSES, tuple(items[place] for place in group))
            for number, group in enumerate(groups)
        ]
        runs = [plans[start : start + run] for start in range(0, len(plans), run)]
        generator = np.random.default_rng([abs(self.seed), epoch, pool])
        return [plan for place in generator.permutation(len(runs)) for plan in runs[place]]

    def steps(self, position: Position, num_processes: int) -> Iterator[tuple[list[Planned], Position]]:
        """One batch for each process, and the position after them; without an end.

        In an epoch each item comes once. At its end there may be fewer batches than processes: they are
        split then (`share_out`).
        """
        epoch, pool, offset, run, step = position
        loaded = self.batches(epoch, pool, run)
        waiting = loaded[offset:]
        while True:
            while len(waiting) < num_processes and pool + 1 < self.num_pools:
                pool, run = pool + 1, num_processes
                loaded = self.batches(epoch, pool, run)
                waiting += loaded
            if not waiting:
                epoch, pool, run, step = epoch + 1, 0, num_processes, 0
                loaded = self.batches(epoch, pool, run)
                waiting = list(loaded)
                continue
            group, waiting = waiting[:num_processes], waiting[num_processes:]
            step += 1
            yield (
                share_out(group, num_processes),
                Position(epoch, pool, len(loaded) - len(waiting), run, step),
            )


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.int32]:
    return np.random.default_rng([seed, epoch]).permutation(np.arange(count, dtype=np.int32))


def batches_of(seconds_P: NDArray[np.float64], num_buckets: int, max_seconds: float) -> list[list[int]]:
    """Put utterances of similar durations together.

    They are sorted into buckets, each with the same share of all audio, and stay in their order there, which
    should be a random one. What is left in the buckets makes batches of its own.

    Args:
        seconds_P: their durations.
        num_buckets: the more, the less padding, and the fewer different neighbors has an utterance.
        max_seconds: of a batch, padding included; a longer utterance is alone.

    Returns:
        The places of the utterances of each batch, that with the shortest ones first.
    """
    sorted_P = np.argsort(seconds_P, kind="stable")
    before_P = np.cumsum(seconds_P[sorted_P]) - seconds_P[sorted_P]
    share_P = before_P / max(float(seconds_P.sum()), 1e-9)
    bucket_P = np.empty(len(seconds_P), np.int64)
    bucket_P[sorted_P] = np.minimum((share_P * num_buckets).astype(np.int64), num_buckets - 1)
    seconds = seconds_P.tolist()
    full: list[list[int]] = []
    rest: list[int] = []
    for bucket in range(num_buckets):
        batches = _filled(np.flatnonzero(bucket_P == bucket).tolist(), seconds, max_seconds)
        full += batches[:-1]
        rest += batches[-1] if batches else []
    rest.sort(key=lambda place: seconds[place])
    batches = full + _filled(rest, seconds, max_seconds)
    return sorted(batches, key=lambda batch: max(seconds[place] for place in batch))


def _filled(places: Sequence[int], seconds: Sequence[float], max_seconds: float) -> list[list[int]]:
    """Utterances in their order, in batches that are as full as they can be."""
    batches: list[list[int]] = []
    longest = 0.0
    for place in places:
        longest = max(longest, seconds[place])
        if batches and longest * (len(batches[-1]) + 1) <= max_seconds:
            batches[-1].append(place)
        else:
            batches.append([place])
            longest = seconds[place]
    return batches


def share_out(batches: list[Planned], count: int) -> list[Planned]:
    """As many batches as processes: the largest ones are split.

    Where there are fewer items than processes, some come twice: no process may be without a batch.
    """
    shared = list(batches)
    while len(shared) < count:
        largest = max(range(len(shared)), key=lambda place: len(shared[place].items))
        number, items = shared[largest]
        half = (len(items) + 1) // 2
        shared[largest] = Planned(number, items[:half])
        # Batches' own numbers are multiples of MOST_PROCESSES; what is split may be a part already.
        own = number - number % MOST_PROCESSES
        shared.append(Planned(own + len(shared), items[half:] or items))
    return shared
