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
    return cast(StateT, map_states(lambda *tensors: torch.cat(tensors, dim=0), *states))


def split_state(state: StateT) -> list[StateT]:
    """One state per stream, each a batch of one: the inverse of `stack_states`.

    Each state owns its memory: a stream that falls idle keeps alive neither the batch that it was part of
    nor the frames that a layer has done with.
    """
    size = state_batch_size(state)
    if size == 1:
        return [cast(StateT, map_states(_compact, state))]
    return _split(state, size)


def select_states(state: StateT, index_N: Tensor) -> StateT:
    """The states of some streams of a batch, in the order of `index_N` (int64, repeats allowed)."""
    return cast(StateT, map_states(lambda tensor: tensor.index_select(0, index_N), state))


def state_batch_size(state: tuple) -> int:
    """Number of streams in a state."""
    first: Any = state
    while not isinstance(first, Tensor):
        first = first[0]
    return first.shape[0]


def map_states(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply `function` to the tensors at the same place in all of `states`; a state of what it returns."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    assert isinstance(first, tuple), type(first)
    return _rebuild(first, [map_states(function, *parts) for parts in zip(*states, strict=True)])


def _rebuild(like: tuple, parts: list[Any]) -> Any:
    # A NamedTuple takes its fields as arguments, a plain tuple takes one iterable.
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)


def _split(state: Any, size: int) -> list[Any]:
    if isinstance(state, Tensor):
        return [row.clone() for row in state.split(1)]
    if not state:
        return [state] * size
    columns = [_split(part, size) for part in state]
    return [_rebuild(state, list(row)) for row in zip(*columns, strict=True)]


def _compact(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy where it is a small part of what its storage holds."""
    # Copying every time would slow the step of a single stream, whose caches are most of their storage.
    return tensor.clone() if tensor.untyped_storage().nbytes() > 2 * tensor.nbytes else tensor
