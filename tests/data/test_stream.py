"""A stream of batches goes on where it stood, shared among as many processes as before or others."""

from collections.abc import Iterator
from typing import Any

import pytest

from kdasr.common.errors import UserError
from kdasr.data.batch_stream import BatchStream


class Numbers(BatchStream[int]):
    """Twelve batches an epoch, of which each process takes every `world_size`-th."""

    def __init__(self, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.rank, self.world_size, self.seed = rank, world_size, seed

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.seed, "world_size": self.world_size}

    def _start(self) -> Iterator[tuple[int, int, int]]:
        epoch, last = self._position
        while True:
            for index, number in enumerate(range(self.rank, 12, self.world_size)):
                if index > last:
                    yield epoch, index, 12 * epoch + number
            epoch, last = epoch + 1, -1


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_another_number_of_processes_goes_on_after_what_all_have_had(before: int, after: int) -> None:
    """Where they can be shared out evenly, every batch comes once."""
    first = [Numbers(rank, before) for rank in range(before)]
    steps = 18 // before
    had = [next(stream) for _ in range(steps) for stream in first]
    assert sorted(had) == list(range(18))
    second = [Numbers(rank, after) for rank in range(after)]
    for stream in second:
        stream.load_state_dict(first[0].state_dict())
    following = [next(stream) for _ in range(6 // after) for stream in second]
    assert following == list(range(18, 24))


def test_a_stream_that_has_not_begun_begins_with_any_number() -> None:
    stream = Numbers(world_size=3)
    stream.load_state_dict(Numbers(world_size=2).state_dict())
    assert next(stream) == 0
    with pytest.raises(UserError, match="seed was 0 and is 1 now"):
        Numbers(seed=1).load_state_dict(Numbers().state_dict())
