"""What hypotheses have said, as the predictor needs it: outputs are computed once for those alike."""

from collections.abc import Hashable, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from kdasr.models.predictors.base import LastPieces, PredictorState

if TYPE_CHECKING:
    from kdasr.decoding.greedy import GreedyState
    from kdasr.models.transducer.model import Transducer

# Shapes: N hypotheses, J joiner width, K pieces of context, R rows of the table.

Context = Hashable
"""The pieces of a hypothesis, as far as the predictor depends on them. Those of a stateless predictor are
equal where its last K pieces are."""


class Contexts(Protocol):
    """Makes contexts, and gives the predictor's output for them. Several threads may use it at a time."""

    @property
    def num_start_pieces(self) -> int:
        """Pieces that stand before the first one."""

    def start_context(self) -> Any:
        """The context before any piece."""

    def after(self, context: Any, piece: int) -> Any:
        """The context after one more piece."""

    def gather(self, contexts: Sequence[Any]) -> Tensor:
        """The predictor's outputs (N, J) for some contexts, projected to the joiner."""

    def stack(self, contexts: Sequence[Any]) -> PredictorState:
        """The predictor's states for some contexts, as one batch."""

    def split(self, state: "GreedyState", rows: Sequence[int]) -> dict[int, Any]:
        """The contexts of some rows of a batch, by row."""


def contexts_of(model: "Transducer") -> Contexts:
    """The kind that the model's predictor needs. The model's weights must not change during its life."""
    if model.predictor.context_size is None:
        from kdasr.decoding.prefixes import Prefixes

        return Prefixes(model)
    return PredictorCache(model)


class PredictorCache:
    """The projected outputs of a stateless predictor for every context seen lately.

    They depend on the last K pieces alone, which are the context. A beam proposes the same few continuations
    frame after frame and stream after stream, so that most are here already.
    """

    def __init__(self, model: "Transducer", capacity: int = 4096) -> None:
        """`capacity` is the number of contexts kept; at least as many as are asked for at once are."""
        self._model = model
        self._capacity = capacity
        self._rows: dict[tuple[int, ...], int] = {}
        self._table_RJ: Tensor | None = None
        self._last: tuple[Sequence[tuple[int, ...]], Tensor] | None = None
        self._lock = Lock()

    @property
    def num_start_pieces(self) -> int:
        """See `Contexts`: the size of a context."""
        size = self._model.predictor.context_size
        assert size is not None
        return size

    def start_context(self) -> tuple[int, ...]:
        """See `Contexts`."""
        return tuple(self._model.predictor.start_state(1, "cpu").pieces_BK[0].tolist())

    def after(self, context: tuple[int, ...], piece: int) -> tuple[int, ...]:
        """See `Contexts`."""
        return (*context[1:], piece)

    def gather(self, contexts: Sequence[tuple[int, ...]]) -> Tensor:
        """See `Contexts`; the predictor runs once, for those that are new."""
        with self._lock:
            return self._gather(contexts)

    def stack(self, contexts: Sequence[tuple[int, ...]]) -> LastPieces:
        """See `Contexts`."""
        # To ask the model where its weights are takes longer than all the rest here.
        known = self._table_RJ
        device = next(self._model.parameters()).device if known is None else known.device
        return LastPieces(torch.tensor(contexts, device=device))

    def split(self, state: "GreedyState", rows: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """See `Contexts`."""
        if not rows:
            return {}
        pieces = state.heard.pieces_BK.tolist()
        return {row: tuple(pieces[row]) for row in rows}

    def _gather(self, contexts: Sequence[tuple[int, ...]]) -> Tensor:
        if self._last is not None and self._last[0] == contexts:
            return self._last[1]
        new = [context for context in dict.fromkeys(contexts) if context not in self._rows]
        if new:
            if len(self._rows) + len(new) > self._capacity:
                self._rows = {}
                new = list(dict.fromkeys(contexts))
            self._compute(new)
        assert self._table_RJ is not None
        rows_N = torch.tensor([self._rows[context] for context in contexts], device=self._table_RJ.device)
        predicted_NJ = self._table_RJ.index_select(0, rows_N)
        self._last = contexts, predicted_NJ
        return predicted_NJ

    def _compute(self, contexts: Sequence[tuple[int, ...]]) -> None:
        predicted = self._model.predictor.predict(self.stack(contexts))
        predicted_NJ = self._model.joiner.project_predictor(predicted)
        start, end = len(self._rows), len(self._rows) + len(contexts)
        if self._table_RJ is None or end > len(self._table_RJ):
            grown = predicted_NJ.new_empty(max(2 * end, 64), predicted_NJ.shape[1])
            if start:
                assert self._table_RJ is not None
                grown[:start] = self._table_RJ[:start]
            self._table_RJ = grown
        self._table_RJ[start:end] = predicted_NJ
        self._rows.update(zip(contexts, range(start, end), strict=True))
