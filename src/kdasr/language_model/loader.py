"""Batches of text for language models: shuffled and exactly resumable, or in a fixed order."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.batch_stream import BatchStream
from kdasr.data.pace import Pace
from kdasr.language_model.text import EncodedText

# Shapes: B sentences, S pieces.

POOL = 8192
"""Sentences among which those of similar length are put together."""
WINDOW = 128 * POOL
"""Sentences whose batches are shuffled together: a million."""


@dataclass
class TextBatch:
    """Padded sentences."""

    tokens_BS: Tensor
    """Piece ids without start or end, int64, padded with 0 (blank)."""
    token_lens_B: Tensor
    """Valid pieces, int64, on the CPU."""
    ids: list[str]
    """Where the sentences come from, for messages."""
    num_words: int
    """Of all sentences together."""
    audio_seconds: float = 0.0
    """Text has none."""
    paired: bool = True
    """Text is of one kind."""

    @property
    def num_predictions(self) -> int:
        """Pieces and ends: what a language model is asked."""
        return int(self.token_lens_B.sum()) + len(self)

    def to(self, device: torch.device | str) -> "TextBatch":
        """The same batch with pieces on `device`; lengths stay on the CPU."""
        return replace(self, tokens_BS=self.tokens_BS.to(device, non_blocking=True))

    @property
    def longest_seconds(self) -> float:
        """Text has no audio."""
        return 0.0

    @property
    def longest_pieces(self) -> int:
        """Pieces of the longest sentence."""
        return int(self.token_lens_B.max())

    @property
    def max_splits(self) -> int:
        """Text stays in one part."""
        return 1

    @property
    def smaller_by(self) -> str:
        """The option that, lowered, makes batches smaller."""
        return "data.batch_pieces"

    def split(self, count: int) -> list["TextBatch"]:
        """The batch itself."""
        return [self]

    def __len__(self) -> int:
        return len(self.ids)


class TextLoader(BatchStream[TextBatch]):
    """An endless, shuffled stream of batches; every sentence once an epoch.

    Batches depend on the text, `batch_pieces`, `seed`, `rank` and `world_size` alone. All ranks see the same
    number of batches per epoch; the last few that cannot be shared out evenly are left out of it.
    """

    def __init__(
        self, text: EncodedText, batch_pieces: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Raises:
            UserError: fewer batches than processes.
        """
        super().__init__()
        self._text, self._batch_pieces = text, batch_pieces
        self._seed, self._rank, self._world_size = seed, rank, world_size
        if next(self._plan(0), None) is None:
            raise UserError(f"too little text for {world_size} processes; lower data.batch_pieces")

    def pace(self) -> Pace:
        """Batches of an epoch, as if for one process."""
        return Pace(sum(1 for _ in self._batches(0)), None)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "world_size": self._world_size,
            "num_sentences": len(self._text),
            "num_pieces": self._text.num_pieces,
            "batch_pieces": self._batch_pieces,
        }

    def _start(self) -> Iterator[tuple[int, int, TextBatch]]:
        epoch, last = self._position
        while True:
            for index, sentences in enumerate(self._plan(epoch)):
                if index > last:
                    yield epoch, index, make_text_batch(self._text, sentences)
            epoch, last = epoch + 1, -1

    def _plan(self, epoch: int) -> Iterator[list[int]]:
        """The sentences of each of this rank's batches of an epoch."""
        batches = self._batches(epoch)
        while len(together := list(islice(batches, self._world_size))) == self._world_size:
            yield together[self._rank].tolist()

    def _batches(self, epoch: int) -> Iterator[NDArray[np.int32]]:
        """The sentences of the batches of all processes: those of a window at a time."""
        generator = np.random.default_rng([self._seed, epoch])
        order = generator.permutation(np.arange(len(self._text), dtype=np.int32))
        for first in range(0, len(order), WINDOW):
            window = order[first : first + WINDOW]
            batches: list[NDArray[np.int32]] = []
            for start in range(0, len(window), POOL):
                pool = window[start : start + POOL]
                lens = np.asarray(self._text.lens_N[pool], np.int64)
                by_length = np.argsort(lens, kind="stable")
                batches += _groups(pool[by_length], lens[by_length], self._batch_pieces)
            generator.shuffle(batches)
            yield from batches


def valid_text_batches(text: EncodedText, batch_pieces: int) -> list[TextBatch]:
    """All sentences in batches of similar lengths, in a fixed shuffled order: the first few are a sample."""
    by_length = np.argsort(text.lens_N, kind="stable")
    groups = _groups(by_length, np.asarray(text.lens_N[by_length], np.int64), batch_pieces)
    random.Random(0).shuffle(groups)
    return [make_text_batch(text, group.tolist()) for group in groups]


def make_text_batch(text: EncodedText, sentences: Sequence[int]) -> TextBatch:
    """The batch of some sentences."""
    pieces = [torch.from_numpy(text.pieces(index)) for index in sentences]
    return TextBatch(
        tokens_BS=torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True),
        token_lens_B=torch.tensor([len(piece) for piece in pieces]),
        ids=[text.origin(index) for index in sentences],
        num_words=int(text.num_words_N[list(sentences)].sum()),
    )


def _groups(sentences: NDArray[Any], lens: NDArray[np.int64], batch_pieces: int) -> list[NDArray[Any]]:
    """Sentences, the shortest first, cut into batches of at most `batch_pieces` places (one at least)."""
    groups, start = [], 0
    while start < len(sentences):
        # Places of the batch up to each sentence, which only grow.
        ahead = lens[start : start + batch_pieces]
        places = np.arange(1, len(ahead) + 1) * (ahead + 1)
        count = max(1, int(np.searchsorted(places, batch_pieces, side="right")))
        groups.append(sentences[start : start + count])
        start += count
    return groups
