"""An endless stream of batches that can go on where it stood, bit for bit."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from kdasr.common.errors import UserError

BatchT = TypeVar("BatchT")

PROCESSES = "world_size"
"""The key of the number of processes that share the batches."""


class BatchStream(ABC, Generic[BatchT]):
    """Hands out batches and knows which it handed out last: epoch and index, both from 0."""

    def __init__(self) -> None:
        self._position = (0, -1)
        self._iterator: Iterator[tuple[int, int, BatchT]] | None = None

    @abstractmethod
    def _start(self) -> Iterator[tuple[int, int, BatchT]]:
        """Epoch, index and batch of all that comes after the current position."""

    @abstractmethod
    def _identity(self) -> dict[str, Any]:
        """Plain values that decide what the batches are."""

    @property
    def epoch(self) -> int:
        """The epoch of the batch handed out last."""
        return self._position[0]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> BatchT:
        if self._iterator is None:
            self._iterator = self._start()
        epoch, index, batch = next(self._iterator)
        self._position = (epoch, index)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain values, the same on all ranks."""
        return {"epoch": self._position[0], "index": self._position[1], **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batch that `state` was taken at; the batches that follow are the same bits.

        A state of another number of processes will do: the epoch goes on after as many batches as all of them
        have had together. What has been in them depends on that number too, so the rest of that epoch may
        hold some utterances again and lack others.

        Raises:
            UserError: the state belongs to other data or other settings.
        """
        identity = self._identity()
        processes = identity.pop(PROCESSES, 1)
        for key, value in identity.items():
            if state.get(key) != value:
                raise UserError(
                    f"cannot resume the data stream: {key} was {state.get(key)} and is {value} now"
                )
        done = (int(state["index"]) + 1) * int(state.get(PROCESSES, processes))
        self._position = (int(state["epoch"]), done // processes - 1)
        self._iterator = None
