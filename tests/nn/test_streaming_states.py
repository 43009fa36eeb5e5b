"""Stacking streams into a batch is one rule for every state."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from kdasr.nn.streaming import select_states, split_state, stack_states, state_batch_size


class Inner(NamedTuple):
    left_BH: Tensor


class Outer(NamedTuple):
    count_B: Tensor
    layers: tuple[Inner, ...]


def make_state(batch_size: int, start: int) -> Outer:
    numbers_BH = torch.arange(start, start + 3 * batch_size).view(batch_size, 3)
    return Outer(numbers_BH[:, 0], (Inner(numbers_BH), Inner(-numbers_BH)))


def test_split_undoes_stack():
    states = [make_state(1, start) for start in (0, 10, 20)]
    for before, after in zip(states, split_state(stack_states(states)), strict=True):
        assert torch.equal(before.count_B, after.count_B)
        assert torch.equal(before.layers[1].left_BH, after.layers[1].left_BH)


def test_types_and_order_survive():
    stacked = stack_states([make_state(2, 0), make_state(1, 100)])
    assert isinstance(stacked, Outer)
    assert isinstance(stacked.layers, tuple) and isinstance(stacked.layers[0], Inner)
    assert stacked.count_B.tolist() == [0, 3, 100]
    assert state_batch_size(stacked) == 3


def test_states_of_other_shapes_do_not_stack():
    odd = Outer(torch.zeros(1), (Inner(torch.zeros(1, 3)),))
    with pytest.raises(ValueError, match="shorter"):
        stack_states([make_state(1, 0), odd])


def test_a_split_state_owns_its_memory():
    batch = stack_states([make_state(1, start) for start in range(8)])
    for part in split_state(batch):
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in (part[0], *part[1][1]))
    wide_BH = torch.zeros(1, 100)
    alone = split_state(Outer(torch.zeros(1), (Inner(wide_BH[:, :80]), Inner(wide_BH[:, :3]))))[0]
    # Of a single stream only what is mostly waste is copied.
    assert alone.layers[0].left_BH.untyped_storage().nbytes() == wide_BH.nbytes
    assert alone.layers[1].left_BH.untyped_storage().nbytes() == 3 * 4


def test_states_without_tensors_of_their_own_split_too():
    assert split_state((torch.zeros(2), ()))[1][1] == ()


def test_select_repeats_and_reorders():
    chosen = select_states(make_state(3, 0), torch.tensor([2, 0, 2]))
    assert isinstance(chosen, Outer) and chosen.count_B.tolist() == [6, 0, 6]
    assert chosen.layers[1].left_BH.tolist() == [[-6, -7, -8], [0, -1, -2], [-6, -7, -8]]
