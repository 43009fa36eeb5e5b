"""How much of the utterance a frame may look at: the one parameter between teacher and student."""

from dataclasses import dataclass
from typing import Annotated

from kdasr.common.ranges import between

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

    def __str__(self) -> str:
        return "full" if self.is_full else f"left={self.left} chunk={self.chunk} right={self.right}"
