"""Word alignment of long streams: the fewest errors, and of all such alignments the one that fits the times.

A stream of many utterances says the same words again and again. When one is lost, alignments with the fewest
errors differ in which one it was, and a word may be paired with its like of a minute later. The number of
errors does not depend on that, but everything that is measured per utterance or per word does.

Shapes: N reference words, M recognized words.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdasr.evaluation.wer import AlignedPair

_ERROR = 1 << 40
"""Cost of one error. All distances of an alignment together stay below it."""
_FARTHEST_MS = 60_000
"""Words farther apart than this are all alike."""
_BLOCK = 128
"""Reference words whose costs are in memory at a time."""

_Costs = NDArray[np.int64]


def align_timed_words(
    ref: Sequence[str], hyp: Sequence[str], ref_times: ArrayLike, hyp_times: ArrayLike
) -> list[AlignedPair]:
    """Align two word sequences with the fewest errors (all kinds count the same), then the nearest in time.

    Costs are (errors, milliseconds between the words of each pair), compared in this order. Rows of the
    table are computed by numpy, an earlier row is kept for every 128 reference words and the rest computed
    again on the way back, so that memory grows with `(N / 128 + 128) M`: 10,000 words against as many take
    2 s and 20 MB.

    Args:
        ref: N reference words.
        hyp: M recognized words.
        ref_times: (N,) seconds at which each reference word ends.
        hyp_times: (M,) seconds at which each recognized word was emitted.

    Returns:
        One pair per column of the alignment, in order.

    Raises:
        ValueError: words without times, or times without words.
    """
    table = _Table(ref, hyp, ref_times, hyp_times)
    starts = range(0, len(ref), _BLOCK)
    row_M = table.first_row()
    rows_at = []
    for start in starts:
        rows_at.append(row_M)
        for place in range(start, min(start + _BLOCK, len(ref))):
            row_M = table.next_row(place, row_M)
    backwards: list[AlignedPair] = []
    column = len(hyp)
    for start, first_M in zip(reversed(starts), reversed(rows_at), strict=True):
        rows = [first_M[: column + 1]]  # no later column can be reached any more
        for place in range(start, min(start + _BLOCK, len(ref))):
            rows.append(table.next_row(place, rows[-1]))
        column = table.trace(rows, start, column, backwards)
    backwards += [AlignedPair(None, place, False) for place in reversed(range(column))]
    return backwards[::-1]


class _Table:
    """The costs of aligning the beginnings of both sequences, row by row."""

    def __init__(
        self, ref: Sequence[str], hyp: Sequence[str], ref_times: ArrayLike, hyp_times: ArrayLike
    ) -> None:
        numbers: dict[str, int] = {}
        self._ref_N = np.array([numbers.setdefault(word, len(numbers)) for word in ref], dtype=np.int64)
        self._hyp_M = np.array([numbers.setdefault(word, len(numbers)) for word in hyp], dtype=np.int64)
        self._ref_ms_N = _milliseconds(ref_times, len(ref))
        self._hyp_ms_M = _milliseconds(hyp_times, len(hyp))
        self._inserted = _ERROR * np.arange(len(hyp) + 1)

    def first_row(self) -> _Costs:
        """Before any reference word: everything recognized is an insertion."""
        return self._inserted

    def next_row(self, place: int, row_M: _Costs) -> _Costs:
        """The row after reference word `place`, as many columns as `row_M` has."""
        inserted = self._inserted[: len(row_M)]
        costs = row_M + _ERROR
        np.minimum(costs[1:], row_M[:-1] + self._pair_costs(place, len(row_M) - 1), out=costs[1:])
        # The cheapest way to any column on the left, and insertions from there.
        return np.minimum.accumulate(costs - inserted) + inserted

    def trace(self, rows: list[_Costs], start: int, column: int, out: list[AlignedPair]) -> int:
        """Follow the best way from the last of `rows` back to the first, which stands before word `start`.

        Returns:
            The column at which it arrives there.
        """
        for place in reversed(range(start, start + len(rows) - 1)):
            above_M, row_M = rows[place - start], rows[place - start + 1]
            paired_M = above_M[:column] + self._pair_costs(place, column)
            while True:
                if column and row_M[column] == paired_M[column - 1]:
                    correct = bool(self._ref_N[place] == self._hyp_M[column - 1])
                    column -= 1
                    out.append(AlignedPair(place, column, correct))
                    break
                if row_M[column] == above_M[column] + _ERROR:
                    out.append(AlignedPair(place, None, False))
                    break
                column -= 1
                out.append(AlignedPair(None, column, False))
        return column

    def _pair_costs(self, place: int, columns: int) -> _Costs:
        """Of pairing reference word `place` with each of the first `columns` recognized words."""
        apart_M = np.minimum(np.abs(self._hyp_ms_M[:columns] - self._ref_ms_N[place]), _FARTHEST_MS)
        return apart_M + _ERROR * (self._hyp_M[:columns] != self._ref_N[place])


def _milliseconds(times: ArrayLike, count: int) -> _Costs:
    seconds = np.asarray(times, dtype=np.float64)
    if seconds.shape != (count,):
        raise ValueError(f"{count} words with times of shape {seconds.shape}")
    return np.rint(1000 * seconds).astype(np.int64)
