"""How much of the utterance a frame may look at: the one parameter between teacher and student."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from kdasr.common.errors import UserError
from kdasr.common.ranges import Items, between

UNLIMITED = -1
MOST_FRAMES = 100_000
"""Over half an hour. Streaming sets memory aside for every frame of a context before it hears the first."""


@dataclass(frozen=True)
class Context:
    """Attention and convolution context, in frames of the encoder.

    The utterance is cut into chunks. A frame sees its own chunk, `left` frames before the chunk and
    `right` frames after it. The right context is recomputed with each chunk (it is a copy, as in
    Emformer, Shi et al. 2021), so the look-ahead does not grow with the number of layers.
    """

    left: Annotated[int, between(UNLIMITED, MOST_FRAMES)] = UNLIMITED
    """Frames visible before the chunk; -1 with `chunk: -1`."""
    chunk: Annotated[int, between(UNLIMITED, MOST_FRAMES)] = UNLIMITED
    """Frames per chunk; -1: the whole utterance is one chunk."""
    right: Annotated[int, between(0, MOST_FRAMES)] = 0
    """Look-ahead frames after the chunk."""

    def __post_init__(self) -> None:
        if self.chunk == UNLIMITED:
            if self.left != UNLIMITED or self.right != 0:
                raise ValueError(f"full context takes neither left nor right: {self}")
        elif self.chunk < 1 or self.left < 0 or self.right < 0:
            raise ValueError(f"chunked context needs chunk >= 1, left >= 0, right >= 0: {self}")
        elif max(self.left, self.chunk, self.right) > MOST_FRAMES:
            raise ValueError(f"chunked context has at most {MOST_FRAMES} frames of each kind: {self}")

    @classmethod
    def full(cls) -> "Context":
        """The whole utterance: the teacher's context."""
        return cls()

    @property
    def is_full(self) -> bool:
        """Whether the whole utterance is one chunk."""
        return self.chunk == UNLIMITED

    @property
    def window_frames(self) -> int:
        """Encoder frames computed at once: a chunk and its look-ahead. Chunked contexts only."""
        assert not self.is_full
        return self.chunk + self.right

    @property
    def folder_name(self) -> str:
        """The name of a folder of results under this context."""
        return "full" if self.is_full else f"left-{self.left}-chunk-{self.chunk}-right-{self.right}"

    def __str__(self) -> str:
        return "full" if self.is_full else f"left={self.left} chunk={self.chunk} right={self.right}"


@dataclass
class ContextChoice:
    """Contexts of which every part is drawn by itself, anew for each optimizer step.

    So one model learns every latency between the smallest chunk and the whole utterance (Andrusenko et al.
    2026, arXiv 2604.19079; with `right`, Sharma et al. 2025, arXiv 2506.14434).
    """

    left: Annotated[list[int], between(0, MOST_FRAMES), Items()] = field(default_factory=list)
    """Frames before the chunk; each value is drawn as often as any other. Empty, as `chunk` is then:
    nothing is drawn."""
    chunk: Annotated[list[int], between(1, MOST_FRAMES), Items()] = field(default_factory=list)
    """Frames per chunk."""
    right: Annotated[list[int], between(0, MOST_FRAMES), Items(at_least=1)] = field(
        default_factory=lambda: [0]
    )
    """Look-ahead frames."""
    full_probability: Annotated[float, between(0, 1)] = 0.0
    """Share of the steps that see the whole utterance instead."""

    def __bool__(self) -> bool:
        return bool(self.left and self.chunk)

    def first(self) -> Context:
        """The first value of each part."""
        return Context(self.left[0], self.chunk[0], self.right[0])

    def draw(self, seed: int, step: int) -> Context:
        """The context of a step: a function of seed and step alone, the same on every process."""
        draws = random.Random(f"context {seed} {step}")
        sees_all = draws.random() < self.full_probability
        context = Context(draws.choice(self.left), draws.choice(self.chunk), draws.choice(self.right))
        return Context.full() if sees_all else context

    def all(self) -> list[Context]:
        """Every context that may be drawn."""
        chunked = [Context(*parts) for parts in product(self.left, self.chunk, self.right)]
        if self.full_probability == 1.0:
            chunked = []
        return [*chunked, *([Context.full()] if self and self.full_probability > 0.0 else [])]

    def __str__(self) -> str:
        parts = " ".join(f"{name}={getattr(self, name)}" for name in ("left", "chunk", "right"))
        return f"{parts}, full in {100 * self.full_probability:g} % of the steps"


def read_context(stored: Mapping[str, Any], path: Path) -> Context:
    """A context that a file at `path` holds, whole: what lacks a part would be another one without a word.

    Raises:
        UserError: no context that there is.
    """
    try:
        if set(stored) != {part.name for part in fields(Context)} or {*map(type, stored.values())} != {int}:
            raise ValueError("expected left, chunk and right, whole numbers of frames")
        return Context(**stored)
    except ValueError as error:
        raise UserError(f"{path}: 'context' is {stored}: {error}") from None


def sample_context(contexts: Sequence[Context] | ContextChoice, seed: int, step: int) -> Context:
    """The context of an optimizer step: a function of seed and step alone, the same on every process."""
    if isinstance(contexts, ContextChoice):
        assert contexts, "nothing to draw from"
        return contexts.draw(seed, step)
    if len(contexts) == 1:
        return contexts[0]
    return random.Random(f"context {seed} {step}").choice(list(contexts))
