"""Contextual biasing: phrases that a beam search should rather hear, as an automaton over pieces.

The automaton of Aho and Corasick (1975) knows for every history of pieces which phrases end there and which
beginnings of phrases stand open. Each piece of an open beginning is given its boost in advance, so
that a phrase is not pruned before it is complete; what was given is taken back when the beginning turns
out to be none. A completed phrase keeps its boost. As in icefall's context graph, phrases that end within or
overlap one another count each for itself.

Shapes: V pieces.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines

if TYPE_CHECKING:
    from kdasr.data.tokenizer import Tokenizer

DEFAULT_BOOST = 1.0
"""Per piece, in nats. sherpa-onnx gives a hotword 1.5."""
LARGEST_BOOST = 100.0
"""Per piece, in nats. Beyond it nothing else can win anyhow, and sums in float32 lose what was heard."""
_CACHED_ROWS = 2048


@dataclass(frozen=True)
class Phrase:
    """Some words and the boost of each of their pieces."""

    text: str
    boost: float = DEFAULT_BOOST


class BiasingGraph:
    """The automaton. States are integers; in state 0, that of an empty sequence, no beginning stands open.

    For any sequence of pieces, the scores of its steps and of `final_score` add up to the boosts of the
    phrases that occur in it, each as often as it does.
    """

    def __init__(self, phrases: Iterable[tuple[Sequence[int], float]]) -> None:
        """
        Args:
            phrases: piece ids of each phrase and the boost of each of its pieces. Given twice, the larger
                boost counts.

        Raises:
            ValueError: a phrase without pieces, a negative piece id, or a boost that is not between 0 and
                `LARGEST_BOOST`.
        """
        self._next: list[dict[int, int]] = [{}]
        self._advance = [0.0]  # given so far for the path to a state, as if it stood open
        self._complete = [0.0]  # boosts of all phrases that end in a state
        self._fail = [0]
        self._largest_piece = -1
        for pieces, boost in phrases:
            self._insert(list(pieces), float(boost))
        self._link()
        self._rows: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    @classmethod
    def from_phrases(cls, phrases: Iterable[Phrase], tokenizer: "Tokenizer") -> "BiasingGraph":
        """The graph of some phrases in the tokenizer's most likely pieces.

        Raises:
            UserError: a phrase without words, with a boost that is not between 0 and `LARGEST_BOOST`, or with
                a character that the tokenizer does not know.
        """
        encoded = []
        for phrase in phrases:
            pieces = tokenizer.encode(phrase.text)
            if not pieces:
                raise UserError(f"biasing phrase '{phrase.text}': no words")
            if tokenizer.unk_id in pieces:
                raise UserError(
                    f"biasing phrase '{phrase.text}': a character that the tokenizer has never seen "
                    "(are the transcripts in another case?)"
                )
            try:
                encoded.append((pieces, _checked(phrase.boost)))
            except ValueError as error:
                raise UserError(f"biasing phrase '{phrase.text}': {error}") from None
        return cls(encoded)

    @property
    def num_states(self) -> int:
        """States of the automaton."""
        return len(self._next)

    @property
    def largest_piece(self) -> int:
        """The largest piece id in any phrase, which the vocabulary must have; -1 without phrases."""
        return self._largest_piece

    def step(self, state: int, piece: int) -> tuple[float, int]:
        """What is added to a hypothesis in `state` when it emits `piece`, and its new state."""
        before = self._open[state]
        while piece not in self._next[state] and state != 0:
            state = self._fail[state]
        state = self._next[state].get(piece, 0)
        return self._complete[state] + self._open[state] - before, state

    def final_score(self, state: int) -> float:
        """What is added when the sequence ends in `state`: minus what stands open."""
        return -self._open[state]

    def scores(self, state: int, vocab_size: int) -> Tensor:
        """The scores of `step` for every piece (V,), on the CPU; shared, do not change it."""
        row_V = self._rows.get((state, vocab_size))
        if row_V is None:
            row_V = self._row(state, vocab_size)
            self._rows[state, vocab_size] = row_V
            if len(self._rows) > _CACHED_ROWS:
                self._rows.popitem(last=False)
        return row_V

    def _row(self, state: int, vocab_size: int) -> Tensor:
        row_V = torch.full((vocab_size,), -self._open[state])
        known: set[int] = set()
        suffix = state
        while True:
            for piece in self._next[suffix]:
                if piece not in known:
                    known.add(piece)
                    row_V[piece] = self.step(state, piece)[0]
            if suffix == 0:
                return row_V
            suffix = self._fail[suffix]

    def _insert(self, pieces: list[int], boost: float) -> None:
        if not pieces:
            raise ValueError("a phrase without pieces")
        if min(pieces) < 0:
            raise ValueError(f"a phrase with piece {min(pieces)}; ids count from 0")
        _checked(boost)
        self._largest_piece = max(self._largest_piece, *pieces)
        state = 0
        for piece in pieces:
            if piece not in self._next[state]:
                self._next[state][piece] = len(self._next)
                self._next.append({})
                self._advance.append(0.0)
                self._complete.append(0.0)
                self._fail.append(0)
            state = self._next[state][piece]
            self._advance[state] = max(self._advance[state], boost)
        self._complete[state] = max(self._complete[state], boost * len(pieces))

    def _link(self) -> None:
        """Breadth first: failure links, boosts of the phrases that end in a state, and what stands open."""
        self._open = [0.0] * len(self._next)
        given = [0.0] * len(self._next)
        queue = [0]
        for state in queue:
            for piece, child in self._next[state].items():
                if state != 0:
                    fail = self._fail[state]
                    while piece not in self._next[fail] and fail != 0:
                        fail = self._fail[fail]
                    self._fail[child] = self._next[fail].get(piece, 0)
                given[child] = given[state] + self._advance[child]
                # A beginning that leads nowhere stands open no longer; a suffix of it still may.
                own = given[child] if self._next[child] else 0.0
                self._open[child] = max(own, self._open[self._fail[child]])
                self._complete[child] += self._complete[self._fail[child]]
                queue.append(child)


def read_phrases(path: Path) -> list[Phrase]:
    """Read a file with one phrase per line and, after a tab, its boost per piece; empty lines do not count.

    Raises:
        UserError: no such file, not text, no phrases, or a line with a boost that is no number between 0 and
            `LARGEST_BOOST`.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of phrases")
    phrases = []
    for number, line in enumerate(text_lines(path), start=1):
        text, tab, boost = line.partition("\t")
        if not line.strip():
            continue
        if not text.strip():
            raise UserError(f"{path}, line {number}: a boost without a phrase")
        try:
            phrases.append(Phrase(text.strip(), _checked(float(boost))) if tab else Phrase(text.strip()))
        except ValueError:
            raise UserError(
                f"{path}, line {number}: '{boost}' is no boost; expected a number from 0 to {LARGEST_BOOST:g}"
            ) from None
    if not phrases:
        raise UserError(f"{path}: no phrases in it")
    return phrases


def _checked(boost: float) -> float:
    if not 0.0 <= boost <= LARGEST_BOOST:
        raise ValueError(f"a boost of {boost}; expected a number from 0 to {LARGEST_BOOST:g}")
    return boost
