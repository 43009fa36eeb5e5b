"""Predictor outputs by context: hypotheses that end in the same pieces share one."""

from collections.abc import Sequence
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer

# Shapes: N hypotheses, J joiner width, K pieces of context, R rows of the table.

Context = tuple[int, ...]
"""The last K pieces of a hypothesis, oldest first."""


class PredictorCache:
    """The predictor's projected output for every context seen lately.

    The predictor is stateless: its output depends on the last K pieces alone. A beam proposes the same few
    continuations frame after frame and stream after stream, so that most are here already. The model's
    weights must not change during the cache's life. Several threads may use it at a time.
    """

    def __init__(self, model: "Transducer", capacity: int = 4096) -> None:
        """`capacity` is the number of contexts kept; at least as many as are asked for at once are."""
        self._model = model
        self._capacity = capacity
        self._rows: dict[Context, int] = {}
        self._table_RJ: Tensor | None = None
        self._last: tuple[Sequence[Context], Tensor] | None = None
        self._lock = Lock()

    def start_context(self) -> Context:
        """The context before any piece."""
        return tuple(self._model.predictor.start_context(1, "cpu")[0].tolist())

    def gather(self, contexts: Sequence[Context]) -> Tensor:
        """The outputs (N, J) for some contexts; the predictor runs once, for those that are new."""
        with self._lock:
            return self._gather(contexts)

    def _gather(self, contexts: Sequence[Context]) -> Tensor:
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

    def _compute(self, contexts: Sequence[Context]) -> None:
        device = next(self._model.parameters()).device
        contexts_NK = torch.tensor(contexts, device=device)
        predicted_NJ = self._model.joiner.project_predictor(self._model.predictor.step(contexts_NK))
        start, end = len(self._rows), len(self._rows) + len(contexts)
        if self._table_RJ is None or end > len(self._table_RJ):
            grown = predicted_NJ.new_empty(max(2 * end, 64), predicted_NJ.shape[1])
            if start:
                assert self._table_RJ is not None
                grown[:start] = self._table_RJ[:start]
            self._table_RJ = grown
        self._table_RJ[start:end] = predicted_NJ
        self._rows.update(zip(contexts, range(start, end), strict=True))
