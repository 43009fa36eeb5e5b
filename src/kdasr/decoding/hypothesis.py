"""What a search finds: pieces, the frames at which they were emitted, and how likely they are."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Hypothesis:
    """The pieces of one utterance and where they were emitted."""

    tokens: list[int] = field(default_factory=list)
    """Piece ids, blanks left out."""
    frames: list[int] = field(default_factory=list)
    """Encoder frame of each piece, counted from the first frame that was searched."""
    log_probs: list[float] = field(default_factory=list, compare=False)
    """Natural logarithm of what the model gave each piece at its frame, after penalty and temperature."""
    log_confidences: list[float] = field(default_factory=list, compare=False)
    """The same without the blank: of the probability that it is this piece if it is any."""

    @classmethod
    def of(cls, emissions: Iterable["Emission"]) -> "Hypothesis":
        """The hypothesis of some emissions in order."""
        columns = [list(column) for column in zip(*emissions, strict=True)]
        return cls(*columns)

    @property
    def emissions(self) -> list["Emission"]:
        """Its pieces, each with what is known of it."""
        columns = self.tokens, self.frames, self.log_probs, self.log_confidences
        return [Emission(*row) for row in zip(*columns, strict=True)]


@dataclass
class NBest(Hypothesis):
    """One of several hypotheses of an utterance, with its scores (natural logarithms)."""

    score: float = 0.0
    """Of the whole piece sequence: the probability of those of its alignments that stayed in the beam, and
    what fusion and biasing added."""
    fused: float = 0.0
    """The part of `score` that the language model (scaled) and biasing added."""


class Emission(NamedTuple):
    """One emitted piece."""

    token: int
    frame: int
    log_prob: float
    log_confidence: float
    """See `Hypothesis`."""


class Settled(NamedTuple):
    """The pieces of a stream that no later frame can change: a chain of segments, the newest first.

    A chunk adds a segment and shares those before it, so that a state is never changed by going on from it,
    and going on costs the same however long the stream is.
    """

    before: "Settled | None"
    total: int
    """Pieces in this segment and all before it."""
    emissions: tuple[Emission, ...]


def settle(before: Settled | None, emissions: Iterable[Emission]) -> Settled | None:
    """The chain with some more pieces; the chain itself when there are none."""
    segment = tuple(emissions)
    return Settled(before, num_settled(before) + len(segment), segment) if segment else before


def num_settled(settled: Settled | None) -> int:
    """Pieces in the chain."""
    return settled.total if settled is not None else 0


def settled_emissions(settled: Settled | None, start: int = 0) -> list[Emission]:
    """The pieces of the chain from number `start` on, oldest first."""
    segments = []
    while settled is not None and settled.total > start:
        segments.append(settled.emissions)
        settled = settled.before
    emissions = [emission for segment in reversed(segments) for emission in segment]
    return emissions[max(0, start - num_settled(settled)) :]
