"""The streaming contract: a state is a NamedTuple of tensors whose dimension 0 is the stream.

A layer maps `(input, state) -> (output, new state)`. States nest (a NamedTuple or a tuple of states), and
one rule joins streams into a batch and takes the batch apart again, whatever the layer and the age of each
stream.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

StateT = TypeVar("StateT", bound=tuple)


def stack_states(states: Sequence[StateT]) -> StateT:
    """Join the states of several streams (or of several batches of streams) into one batch, in order."""
    assert len(states) > 0
    return cast(StateT, _map_tensors(lambda *tensors: torch.cat(tensors, dim=0), *states))


def split_state(state: StateT) -> list[StateT]:
    """One state per stream, each a batch of one: the inverse of `stack_states`."""
    size = state_batch_size(state)
    return [cast(StateT, _map_tensors(lambda tensor, i=i: tensor[i : i + 1], state)) for i in range(size)]


def state_batch_size(state: tuple) -> int:
    """Number of streams in a state."""
    first: Any = state
    while not isinstance(first, Tensor):
        first = first[0]
    return first.shape[0]


def _map_tensors(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply `function` to the tensors at the same place in every one of `states`."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    assert isinstance(first, tuple), type(first)
    mapped = [_map_tensors(function, *parts) for parts in zip(*states, strict=True)]
    # A NamedTuple takes its fields as arguments, a plain tuple takes one iterable.
    return type(first)(*mapped) if hasattr(first, "_fields") else tuple(mapped)
