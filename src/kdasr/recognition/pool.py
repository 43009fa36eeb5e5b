"""The encoder states of many streams in one block of memory.

A batched step returns one tensor per state for all its streams. Were each stream to keep its row of them, a
stream that falls idle would keep the whole batch alive; were each row copied, a step would spend its time
on hundreds of small copies. Here every stream owns a place in tensors that hold them all: a batch is
gathered from them and stored back with one operation per tensor, whatever streams are in it.
"""

import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any, Generic, cast

import torch
from torch import Tensor

from kdasr.nn.streaming import StateT, map_states


class Slot:
    """A stream's place in a pool; it is free again when nobody holds it any more."""

    __slots__ = ("__weakref__", "index")

    def __init__(self, index: int) -> None:
        self.index = index


class StatePool(Generic[StateT]):
    """States that are alike but for their stream (`kdasr.nn.streaming`).

    Several threads may use it at a time, each on its own streams.
    """

    def __init__(self, initial: StateT) -> None:
        """`initial` is the state of a stream that has heard nothing, a batch of one."""
        self._initial = initial
        self._block = self._latest = initial
        self._capacity = 0
        self._free: list[int] = []
        self._lock = Lock()

    @property
    def capacity(self) -> int:
        """Streams that there is room for; the memory of as many states is taken, once it was used."""
        return self._capacity

    def allocate(self) -> Slot:
        """A place with the initial state in it."""
        with self._lock:
            if not self._free:
                self._grow()
            slot = Slot(self._free.pop())
            weakref.finalize(slot, self._free.append, slot.index).atexit = False
            self._write([slot.index], self._initial)
        return slot

    def reset(self, slot: Slot) -> None:
        """Put the initial state into a place."""
        with self._lock:
            self._write([slot.index], self._initial)

    def gather(self, slots: Sequence[Slot]) -> StateT:
        """The states at some places as a batch, in order. Do not change it: of one place, it is no copy."""
        with self._lock:
            if len(slots) == 1:
                start = slots[0].index
                return cast(StateT, map_states(lambda block: block[start : start + 1], self._block))
            index = self._index([slot.index for slot in slots])
            return cast(StateT, map_states(lambda block: _selected(block, index), self._block))

    def store(self, slots: Sequence[Slot], state: StateT) -> None:
        """Put the states of a batch into these places, in order."""
        with self._lock:
            self._write([slot.index for slot in slots], state)
            # Held until the next batch: with nothing left above them, the allocator would give a step's
            # pages back to the system, and each step would spend a fifth of its time on getting them again.
            self._latest = state

    def _write(self, places: list[int], state: StateT) -> None:
        if len(places) == 1:
            start = places[0]
            map_states(lambda block, row: block[start : start + 1].copy_(row), self._block, state)
            return
        index = self._index(places)
        map_states(lambda block, rows: _store(block, index, rows), self._block, state)

    def _grow(self) -> None:
        """Twice the room. Memory that no stream has used yet is only reserved."""
        old, self._capacity = self._capacity, max(8, 2 * self._capacity)

        def grown(block: Tensor) -> Tensor:
            order = _order(block)
            shape = [self._capacity if place == 0 else block.shape[place] for place in order]
            larger = block.new_empty(shape).permute(_inverse(order))
            larger[:old] = block[:old]
            return larger

        self._block = cast(StateT, map_states(grown, self._block))
        self._free.extend(range(self._capacity - 1, old - 1, -1))

    def _index(self, places: list[int]) -> Tensor:
        first: Any = self._block
        while not isinstance(first, Tensor):
            first = first[0]
        return torch.tensor(places, device=first.device)


# A graph may have the streams anywhere in its tensors. Rows are moved in the order that they have in memory,
# so that a batch is as the graph wants it.


def _order(tensor: Tensor) -> list[int]:
    """The dimensions as they are in memory, the outermost first."""
    strides = tensor.stride()
    return sorted(range(len(strides)), key=lambda place: -strides[place])


def _inverse(order: list[int]) -> list[int]:
    return [order.index(place) for place in range(len(order))]


def _selected(block: Tensor, index: Tensor) -> Tensor:
    order = _order(block)
    return block.permute(order).index_select(order.index(0), index).permute(_inverse(order))


def _store(block: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    order = _order(block)
    return block.permute(order).index_copy_(order.index(0), index, rows.permute(order))
