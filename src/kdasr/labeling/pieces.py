"""Long recordings in pieces that a labeler can hear at once, cut where it is quietest, and joined again."""

# Shapes: N samples, K blocks.

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from kdasr.data.audio_reading import SAMPLE_RATE
from kdasr.data.text_units import space_between, units
from kdasr.labeling.base import HeardWord, Label, Speech

BLOCK = 400
"""Samples of a block of 25 ms: a cut is in the middle of the quietest stretch of `_AROUND` blocks."""
_AROUND = 12
_EARLIEST = 0.5
"""Of the longest piece: no cut before, so that pieces are not too short."""


def cut_at_pauses(samples_N: NDArray[np.float32], longest: float) -> list[tuple[int, int]]:
    """Begin and end (samples) of pieces of at most `longest` seconds. They follow each other without a gap:
    no sample is lost, none is heard twice."""
    limit, total = max(2 * BLOCK, int(longest * SAMPLE_RATE)), len(samples_N)
    bounds = [0]
    while total - bounds[-1] > limit:
        begin = bounds[-1]
        bounds.append(begin + _quietest(samples_N[begin : begin + limit]))
    return list(zip(bounds, [*bounds[1:], total], strict=True)) if total else []


def _quietest(samples_N: NDArray[np.float32]) -> int:
    """Where to cut a stretch, at least one block and at most all of it behind its begin."""
    count = len(samples_N) // BLOCK
    power_K = np.square(samples_N[: count * BLOCK].reshape(count, BLOCK), dtype=np.float64).mean(axis=1)
    width = min(_AROUND, count)
    smooth_K = np.convolve(power_K, np.ones(width) / width, mode="valid")
    first = min(int(_EARLIEST * count), len(smooth_K) - 1)
    # Of equally quiet places the last one, so that silence does not make pieces short.
    found = first + len(smooth_K[first:]) - 1 - int(np.argmin(smooth_K[first:][::-1]))
    return max(1, found + width // 2) * BLOCK


def label_in_pieces(
    batch: Sequence[Speech], longest: float, label: Callable[[list[Speech]], list[Label]]
) -> list[Label]:
    """Labels of utterances by a labeler that hears at most `longest` seconds at once.

    `label` gets all pieces of the batch, those of an utterance one after another.
    """
    bounds = [cut_at_pauses(item.samples_N, longest) for item in batch]
    pieces = [
        Speech(item.id, item.samples_N[begin:end])
        for item, found in zip(batch, bounds, strict=True)
        for begin, end in found
    ]
    labels = iter(label(pieces)) if pieces else iter(())
    return [join_labels([(begin / SAMPLE_RATE, next(labels)) for begin, _ in found]) for found in bounds]


def join_labels(parts: Sequence[tuple[float, Label]]) -> Label:
    """The labels of pieces, each with the second at which it begins, as one.

    Writing without spaces is joined without them. Scores count by words; the language is the one of most
    words; that nobody speaks holds where nobody speaks in any piece.
    """
    if len(parts) == 1 and parts[0][0] == 0.0:
        return parts[0][1]
    labels = [label for _, label in parts]
    said = [label for label in labels if label.text.strip()]
    sizes = [len(units(label.text)) for label in said]
    scores = [(label.score, size) for label, size in zip(said, sizes, strict=True) if label.score is not None]
    spoken: dict[str, int] = {}
    for label, size in zip(said, sizes, strict=True):
        if label.language is not None:
            spoken[label.language] = spoken.get(label.language, 0) + size
    silent = [label.no_speech for label in labels if label.no_speech is not None]
    return Label(
        text=reduce(_joined, (label.text.strip() for label in said), ""),
        score=sum(score * size for score, size in scores) / sum(size for _, size in scores)
        if scores
        else None,
        no_speech=min(silent) if silent else None,
        language=max(spoken, key=lambda name: spoken[name]) if spoken else None,
        words=[
            HeardWord(word.text, round(word.start + begin, 4), round(word.end + begin, 4), word.score)
            for begin, label in parts
            for word in label.words
        ],
    )


def _joined(before: str, after: str) -> str:
    return f"{before}{space_between(before, after)}{after}" if before else after
