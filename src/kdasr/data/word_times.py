"""When the word of each piece is spoken, for training that ties pieces to their words."""

import math
from collections.abc import Sequence

from lhotse.cut import MonoCut

from kdasr.data.tokenizer import WORD_START, Tokenizer

ANYWHERE = (0.0, math.inf)


def aligned_words(cut: MonoCut) -> list[tuple[str, float, float]]:
    """Word, start and end in seconds from the cut's begin; silences left out; empty without an alignment."""
    return [
        (item.symbol, item.start, item.end)
        for supervision in cut.supervisions
        for item in (supervision.alignment or {}).get("word", [])
        if item.symbol.strip()
    ]


def times_of_pieces(cut: MonoCut, pieces: Sequence[int], tokenizer: Tokenizer) -> list[tuple[float, float]]:
    """Start and end of the word that each piece belongs to; `ANYWHERE` for all if the words do not match."""
    words = aligned_words(cut)
    starts = [tokenizer.piece(piece).startswith(WORD_START) for piece in pieces]
    if not words or sum(starts) != len(words):
        return [ANYWHERE] * len(pieces)
    index, times = -1, []
    for begins in starts:
        index += begins
        times.append(words[max(index, 0)][1:])
    return times
