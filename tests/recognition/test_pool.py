"""Streams' places in a pool: their states stay theirs, whoever comes and goes."""

import gc
from typing import Any, NamedTuple

import pytest
import torch
from streaming_helpers import bursts, make_recognizer
from torch import Tensor

from kdasr.decoding.search import BeamOptions, SearchOptions
from kdasr.nn.context import Context
from kdasr.recognition.pool import StatePool
from kdasr.recognition.recognizer import StreamingRecognizer


class Inner(NamedTuple):
    left_BH: Tensor


class Outer(NamedTuple):
    count_B: Tensor
    layers: tuple[Inner, ...]


def make_state(numbers: list[int]) -> Outer:
    count_B = torch.tensor(numbers)
    return Outer(count_B, (Inner(count_B[:, None] * torch.ones(3)),))


def numbers_in(state: Outer) -> list[int]:
    assert state.layers[0].left_BH.tolist() == [[number] * 3 for number in state.count_B.tolist()]
    return state.count_B.tolist()


def test_states_stay_with_their_streams_while_the_pool_grows() -> None:
    pool = StatePool(make_state([-1]))
    slots = [pool.allocate() for _ in range(3)]
    pool.store(slots, make_state([10, 11, 12]))
    more = [pool.allocate() for _ in range(30)]
    assert pool.capacity == 64 and len({slot.index for slot in slots + more}) == 33
    assert numbers_in(pool.gather(slots)) == [10, 11, 12]
    assert numbers_in(pool.gather([*more, slots[1]])) == [-1] * 30 + [11]
    pool.store([slots[2], more[7]], make_state([20, 21]))
    pool.store([slots[0]], make_state([22]))
    assert numbers_in(pool.gather([more[7], *slots])) == [21, 22, 11, 20]
    assert numbers_in(pool.gather(slots[:1])) == [22]


def test_a_batch_lies_in_memory_as_the_states_do() -> None:
    """A graph may have the streams in the middle of its tensors, and is given them so."""

    def state(numbers: list[int]) -> tuple[Tensor]:
        rows = [torch.full((2, 5), float(number)) for number in [*numbers, 99]]
        return (torch.stack(rows, dim=1).movedim(1, 0)[: len(numbers)],)

    pool = StatePool(state([-1]))
    slots = [pool.allocate() for _ in range(20)]
    pool.store(slots[:3], state([10, 11, 12]))
    (gathered,) = pool.gather([slots[2], slots[9], slots[0]])
    assert torch.equal(gathered, state([12, -1, 10])[0])
    assert gathered.movedim(0, 1).is_contiguous()


def test_a_place_is_given_again_with_nothing_of_its_last_stream_in_it() -> None:
    pool = StatePool(make_state([-1]))
    slots = [pool.allocate() for _ in range(8)]
    pool.store(slots, make_state(list(range(8))))
    given_back = slots.pop(3).index
    gc.collect()
    again = pool.allocate()
    assert (again.index, pool.capacity) == (given_back, 8)
    assert numbers_in(pool.gather([again, slots[3]])) == [-1, 4]


@pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])
def test_idle_streams_cost_their_own_state_and_no_more(search: SearchOptions | None) -> None:
    engine = make_recognizer(Context(left=8, chunk=4), search=search)
    streams = [engine.create_stream() for _ in range(16)]
    for seed, stream in enumerate(streams):
        stream.accept_waveform(16000, bursts(1.0, seed))
    engine.decode_all(streams)
    held = _tensors([stream.search_state for stream in streams])
    assert held == {}  # a search remembers numbers, not rows of batches
    own = sum(_tensors(engine.model.encoder.init_state(1, engine.context)).values())
    assert sum(_tensors(engine._pool._block).values()) == 16 * own
    heard = [len(stream.tokens) for stream in streams]
    del streams[:15], stream
    gc.collect()
    assert _create_many(engine, 15) == 16 and heard[-1] == len(streams[0].tokens)


def _create_many(engine: StreamingRecognizer, count: int) -> int:
    streams = [engine.create_stream() for _ in range(count)]
    assert engine._pool is not None and streams
    return engine._pool.capacity


def _tensors(state: Any) -> dict[int, int]:
    """Bytes by storage of all tensors somewhere in a state."""
    if isinstance(state, Tensor):
        storage = state.untyped_storage()
        return {storage.data_ptr(): storage.nbytes()}
    found: dict[int, int] = {}
    for part in state if isinstance(state, tuple | list) else []:
        found |= _tensors(part)
    return found
