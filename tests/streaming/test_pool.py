"""The pool of encoder states: every place is its stream's own, and is used again when that is gone."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.streaming.pool import StatePool


class Pair(NamedTuple):
    count_B: Tensor
    inner: tuple[Tensor, Tensor]


def state(*values: float) -> Pair:
    rows = torch.tensor(values)
    return Pair(rows.long(), (rows[:, None].repeat(1, 3), rows[:, None, None].repeat(1, 2, 2)))


def values(pool: StatePool[Pair], *slots: object) -> list[float]:
    found = pool.gather(slots)  # type: ignore[arg-type]
    for tensor in (found.count_B.float(), found.inner[0].mean(1), found.inner[1].mean((1, 2))):
        assert tensor.tolist() == found.count_B.tolist()
    return found.count_B.tolist()


def test_each_place_holds_what_was_stored_there() -> None:
    pool = StatePool(state(7.0))
    slots = [pool.allocate() for _ in range(20)]  # more than there is room for at first
    assert values(pool, *slots) == [7.0] * 20
    pool.store([slots[3], slots[17]], state(1.0, 2.0))
    pool.store([slots[4]], state(5.0))
    assert values(pool, slots[17], slots[0], slots[3], slots[4]) == [2.0, 7.0, 1.0, 5.0]
    assert values(pool, slots[4]) == [5.0]


def test_a_place_begins_anew_and_room_grows_with_the_streams_alive_only() -> None:
    pool = StatePool(state(0.0))
    for _ in range(50):
        slots = [pool.allocate() for _ in range(5)]
        assert values(pool, *slots) == [0.0] * 5
        pool.store(slots, state(1.0, 2.0, 3.0, 4.0, 5.0))
        assert values(pool, *slots) == [1.0, 2.0, 3.0, 4.0, 5.0]
        del slots
    assert pool.capacity == 8
