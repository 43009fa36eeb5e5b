"""The plan of an epoch: each item once, mixed, in batches that fit, shared by any number of processes."""

from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import pytest
from numpy.typing import NDArray

from kdasr.data.epoch_plan import EpochPlanner, Planned, Position, batches_of, share_out

SECONDS = np.random.default_rng(0).gamma(4.0, 3.0, 1000)


def planner(seed: int = 0, count: int = 1000) -> EpochPlanner:
    """Of items of 12 s on average, in batches of up to 60 s."""

    def items_of(places: NDArray[np.int32], _: tuple[int, ...]) -> tuple[Sequence[int], NDArray[np.float64]]:
        return places.tolist(), SECONDS[places]

    return EpochPlanner(count, seed, max_seconds=60.0, num_buckets=4, items_of=items_of)


@pytest.fixture(autouse=True)
def small_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdasr.data.epoch_plan.POOL", 130)


Had = tuple[list[list[Planned]], list[Position]]


def first_steps(plan: EpochPlanner, begin: Position, processes: int, epochs: int = 1) -> Had:
    """The batches of all processes, step by step, and the positions after them."""
    steps = plan.steps(begin, processes)
    groups, after = [], []
    for group, position in takewhile(lambda step: step[1].epoch < epochs, steps):
        groups.append(group)
        after.append(position)
    return groups, after


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_each_item_comes_once_in_an_epoch_whatever_the_number_of_processes(processes: int) -> None:
    plan = planner()
    groups, _ = first_steps(plan, Position(run=processes), processes)
    assert all(len(group) == processes and all(batch.items for batch in group) for group in groups)
    batches = [batch for group in groups for batch in group]
    assert sorted(item for batch in batches for item in batch.items) == list(range(1000))  # type: ignore[type-var]
    numbers = [batch.number for batch in batches]
    assert len(set(numbers)) == len(numbers)
    # The batches are those of a single process, but for the last ones of the epoch.
    alone = {batch for group in first_steps(plan, Position(), 1)[0] for batch in group}
    assert len(set(batches) - alone) < 2 * processes


@pytest.mark.parametrize("before", [1, 2, 3])
@pytest.mark.parametrize("after", [1, 2, 5])
def test_another_number_of_processes_goes_on_with_what_nobody_has_had(before: int, after: int) -> None:
    plan = planner()
    groups, positions = first_steps(plan, Position(run=before), before)
    for stop in (1, len(groups) // 3, len(groups) - 4):
        had = [batch for group in groups[:stop] for batch in group]
        rest, _ = first_steps(plan, positions[stop - 1], after)
        items = [item for batch in [*had, *(b for group in rest for b in group)] for item in batch.items]
        assert set(items) == set(range(1000))
        # Where the last batch of the epoch has fewer items than there are processes, these share them.
        assert len(items) - 1000 < after


def test_any_position_is_gone_on_from_without_what_came_before_it() -> None:
    plan = planner()
    groups, positions = first_steps(plan, Position(run=2), 2, epochs=3)
    for place in range(0, len(positions) - 1, 7):
        following = planner().steps(positions[place], 2)
        assert next(following) == (groups[place + 1], positions[place + 1])
    assert [after.step for after in positions[:2]] == [1, 2]


def test_seed_and_epoch_decide_the_order() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        groups, _ = first_steps(planner(seed), Position(epoch), 1, epoch + 1)
        return [item for group in groups for batch in group for item in batch.items]  # type: ignore[misc]

    assert order(1, 0) == order(1, 0)
    orders = [order(seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    # Neighbors of an epoch are no neighbors in the table.
    assert abs(np.corrcoef(orders[0], np.arange(1000))[0, 1]) < 0.15


def test_processes_have_batches_of_similar_durations_at_the_same_time() -> None:
    def spread(processes: int, group: list[Planned]) -> float:
        longest = [max(SECONDS[item] for item in batch.items) for batch in group]  # type: ignore[index]
        return max(longest) - min(longest)

    groups, _ = first_steps(planner(), Position(run=4), 4)
    mixed = [batch for group in first_steps(planner(), Position(), 1)[0] for batch in group]
    by_chance = [mixed[start : start + 4] for start in range(0, len(mixed) - 3, 4)]
    assert np.mean([spread(4, group) for group in groups]) < 0.7 * np.mean(
        [spread(4, group) for group in by_chance]
    )


@pytest.mark.parametrize("num_buckets", [1, 5, 500])
def test_batches_fit_and_are_full(num_buckets: int) -> None:
    batches = batches_of(SECONDS, num_buckets, 60.0)
    assert sorted(place for batch in batches for place in batch) == list(range(1000))
    padded = [len(batch) * SECONDS[batch].max() for batch in batches]
    assert all(size <= 60.0 or len(batch) == 1 for size, batch in zip(padded, batches, strict=True))
    assert num_buckets != 5 or SECONDS.sum() > 0.85 * sum(padded)
    assert len(batches) < 1.35 * SECONDS.sum() / 60.0 or num_buckets == 1


def test_the_last_batches_are_shared_out() -> None:
    shared = share_out([Planned(1 << 12, (1, 2, 3)), Planned(2 << 12, (4,))], 4)
    assert sorted(item for batch in shared for item in batch.items) == [1, 2, 3, 4]  # type: ignore[type-var]
    assert len({batch.number for batch in shared}) == 4
    parts = share_out([Planned(1 << 12, tuple(range(8)))], 8)
    assert len({batch.number for batch in parts}) == 8  # their random numbers depend on it
    # No process may be without a batch.
    assert [batch.items for batch in share_out([Planned(0, (7,))], 3)] == [(7,)] * 3


def test_fewer_items_than_pools_are_no_trouble() -> None:
    groups, _ = first_steps(planner(count=3), Position(run=2), 2)
    assert sorted(item for group in groups for batch in group for item in batch.items) == [0, 1, 2]  # type: ignore[type-var]
