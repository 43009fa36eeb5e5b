"""Contexts of a predictor that remembers all that was said: each carries the predictor's state.

A prefix is the pieces of a hypothesis from its start, known by the prefix before it and the last piece. The
predictor's state is computed when the prefix is first asked for, all those of a frame in one batch, and the
prefix before it is then forgotten: an hour of speech needs no more memory than a minute.
"""

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from kdasr.models.predictors.base import PredictorState
from kdasr.nn.streaming import select_states, split_state, stack_states

if TYPE_CHECKING:
    from kdasr.decoding.greedy import GreedyState
    from kdasr.models.transducer.model import Transducer

# Shapes: N hypotheses, J joiner width.

ValueT = TypeVar("ValueT")


class Prefix:
    """The pieces of a hypothesis. Two made by the same steps are one object, while any hypothesis has it."""

    __slots__ = ("__weakref__", "before", "heard", "longer", "piece", "predicted_1J")

    def __init__(self, before: "Prefix | None", piece: int) -> None:
        self.before = before
        """Without `piece`; None once the state is known."""
        self.piece = piece
        self.heard: PredictorState = None
        """The predictor's state, a batch of one."""
        self.predicted_1J: Tensor | None = None
        """Projected to the joiner; None: not computed yet."""
        self.longer: WeakValueDictionary[int, Prefix] | None = None
        """By the piece that they add."""


class Prefixes:
    """Prefixes and the predictor's states after them. See `Contexts`."""

    num_start_pieces = 1

    def __init__(self, model: "Transducer") -> None:
        self._model = model
        self._start: Prefix | None = None
        self._last: tuple[Sequence[Prefix], Tensor] | None = None
        self._lock = Lock()

    def start_context(self) -> Prefix:
        """See `Contexts`."""
        with self._lock:
            if self._start is None:
                start = Prefix(None, 0)
                device = next(self._model.parameters()).device
                with torch.inference_mode():
                    self._set([start], self._model.predictor.start_state(1, device))
                self._start = start
        return self._start

    def after(self, context: Prefix, piece: int) -> Prefix:
        """See `Contexts`."""
        if context.longer is None:
            context.longer = WeakValueDictionary()
        found = context.longer.get(piece)
        if found is None:
            found = context.longer[piece] = Prefix(context, piece)
        return found

    def gather(self, contexts: Sequence[Prefix]) -> Tensor:
        """See `Contexts`; the predictor runs once, for those that are new."""
        with self._lock:
            if self._last is not None and self._last[0] == contexts:
                return self._last[1]
            self._compute(contexts)
            predicted_NJ = torch.cat([_known(prefix.predicted_1J) for prefix in contexts])
            self._last = contexts, predicted_NJ
            return predicted_NJ

    def stack(self, contexts: Sequence[Prefix]) -> PredictorState:
        """See `Contexts`."""
        with self._lock:
            self._compute(contexts)
        return stack_states([prefix.heard for prefix in contexts])

    def split(self, state: "GreedyState", rows: Sequence[int]) -> dict[int, Prefix]:
        """See `Contexts`."""
        if not rows:
            return {}
        found = {row: Prefix(None, 0) for row in rows}
        some = select_states(state, torch.tensor(rows, device=state.predicted_BJ.device))
        self._set(list(found.values()), some.heard, some.predicted_BJ)
        return found

    def _compute(self, contexts: Sequence[Prefix]) -> None:
        """Find the states of those that have none; the prefixes before them have one."""
        new = [prefix for prefix in dict.fromkeys(contexts) if prefix.predicted_1J is None]
        if not new:
            return
        before = [_known(prefix.before).heard for prefix in new]
        device = next(self._model.parameters()).device
        pieces_N = torch.tensor([prefix.piece for prefix in new], device=device)
        self._set(new, self._model.predictor.advance(stack_states(before), pieces_N))

    def _set(self, new: Sequence[Prefix], heard: PredictorState, predicted_NJ: Tensor | None = None) -> None:
        if predicted_NJ is None:
            predicted_NJ = self._model.joiner.project_predictor(self._model.predictor.predict(heard))
        for prefix, own, row_1J in zip(new, split_state(heard), predicted_NJ.split(1), strict=True):
            prefix.heard, prefix.predicted_1J = own, row_1J.clone()
            prefix.before = None


def _known(value: ValueT | None) -> ValueT:
    assert value is not None
    return value
