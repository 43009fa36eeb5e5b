"""An n-gram from an ARPA file (or KenLM's binary form) as language model: shallow fusion and whole sentences.

KenLM (Heafield 2011) reads and asks it; `pip install 'kdasr[ngram]'` brings it as a wheel. The n-gram may be
over the recognizer's pieces or over words; its vocabulary tells which:

- over pieces, each piece is scored when it is emitted;
- over words, a word is scored when it is over: with the piece that begins the next word, or with the end.
  Until then a hypothesis has no score for its last word, so that nothing waits for the rest of a word.

Either way the fused score of a finished hypothesis is what KenLM gives the sentence.
"""

# Shapes: N hypotheses, V pieces, B sentences, S pieces of them, H places of a state.

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.logging import get_logger
from kdasr.common.special_pieces import SOS_EOS_ID, UNK_ID
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import WORD_START

log = get_logger(__name__)

SUFFIXES = (".arpa", ".klm", ".binary")
"""Of files that hold an n-gram: as text, or as KenLM's `build_binary` writes it."""
LN_10 = math.log(10.0)
LONGEST_WORD = 32
"""Pieces of a word that a state holds; a longer one is an unknown word."""
CACHED = 4096
"""Contexts whose scores are kept."""
START, END, UNKNOWN = "<s>", "</s>", "<unk>"
_EMPTY = -1
"""In a state: no word, no piece."""


class Pieces(Protocol):
    """A tokenizer, or the table of pieces of an exported bundle."""

    @property
    def vocab_size(self) -> int: ...
    def piece(self, index: int) -> str: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class NgramLanguageModel:
    """The n-gram of a file. A state is a row of integers (H,): the last words, and the pieces of a word that
    has begun; so it goes wherever the search puts it, and none keeps anything of KenLM's."""

    def __init__(self, path: Path, pieces: Pieces) -> None:
        """
        Args:
            path: of the file.
            pieces: those of the recognizer.

        Raises:
            UserError: no KenLM, no n-gram there, or one that has nothing in common with the pieces.
        """
        self._kenlm = _import_kenlm()
        self._model = _open(self._kenlm, path)
        self._pieces = pieces
        self._names = [pieces.piece(index) for index in range(pieces.vocab_size)]
        self.order = int(self._model.order)
        self.over_pieces = self._find_unit(path)
        self._words: list[str] = [UNKNOWN, START]
        self._ids = {word: index for index, word in enumerate(self._words)}
        self._begins_V = torch.tensor([name.startswith(WORD_START) for name in self._names])
        self._rows: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()

    def to(self, device: torch.device | str) -> "NgramLanguageModel":
        """Itself: it answers on the device that it is asked on."""
        return self

    def initial_state(self, batch_size: int) -> Tensor:
        """See `kdasr.decoding.fusion.LanguageModel`: (N, H)."""
        size = self.order + (0 if self.over_pieces else LONGEST_WORD)
        return torch.full((batch_size, size), _EMPTY, dtype=torch.int64)

    def score(self, pieces_N: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See `kdasr.decoding.fusion.LanguageModel`."""
        fed = zip(pieces_N.tolist(), state.tolist(), strict=True)
        rows = [self._fed(piece, row) for piece, row in fed]
        log_probs_NV = torch.stack([self._scores(tuple(row)) for row in rows]).to(pieces_N.device)
        return log_probs_NV, torch.tensor(rows, dtype=torch.int64, device=pieces_N.device)

    def log_probs(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Natural log-probabilities (B,), float32, of sentences of pieces, their ends included."""
        rows = zip(tokens_BS.tolist(), lens_B.tolist(), strict=True)
        scores = [LN_10 * self._model.score(self._sentence(row[:length])) for row, length in rows]
        return torch.tensor(scores, dtype=torch.float32, device=tokens_BS.device)

    def _sentence(self, pieces: Sequence[int]) -> str:
        """As KenLM takes it: units separated by spaces."""
        if self.over_pieces:
            return " ".join(self._names[piece] for piece in pieces)
        return " ".join(split_words(self._pieces.decode(list(pieces))))

    def _fed(self, piece: int, row: list[int]) -> list[int]:
        """The state after a piece."""
        words, begun = row[: self.order], row[self.order :]
        if piece == SOS_EOS_ID:
            return [*self._with_word(words, START), *begun]
        if self.over_pieces:
            return self._with_word(words, self._names[piece])
        if self._begins_V[piece]:
            for word in self._spelled(begun):
                words = self._with_word(words, word)
            begun = [_EMPTY] * LONGEST_WORD
        return [*words, *begun[1:], piece]

    def _with_word(self, words: list[int], word: str) -> list[int]:
        known = word == START or word in self._model
        name = word if known else UNKNOWN
        if name not in self._ids:
            self._ids[name] = len(self._words)
            self._words.append(name)
        return [*words[1:], self._ids[name]]

    def _spelled(self, begun: Sequence[int]) -> list[str]:
        """The words of the pieces of a state: one at most, where pieces are those of SentencePiece."""
        if begun and begun[0] != _EMPTY:
            return [UNKNOWN]
        return split_words(self._pieces.decode([piece for piece in begun if piece != _EMPTY]))

    def _scores(self, row: tuple[int, ...]) -> Tensor:
        """Natural log-probabilities (V,) of what may follow a state."""
        known = self._rows.get(row)
        if known is not None:
            self._rows.move_to_end(row)
            return known
        context = self._context(row[: self.order])
        if self.over_pieces:
            names = [END if index == SOS_EOS_ID else name for index, name in enumerate(self._names)]
            after, base = self._kenlm.State(), self._model.BaseScore
            scores_V = LN_10 * torch.tensor([base(context, name, after) for name in names])
        else:
            word = 0.0
            for spelled in self._spelled(row[self.order :]):
                after = self._kenlm.State()
                word += self._model.BaseScore(context, spelled, after)
                context = after
            end = word + self._model.BaseScore(context, END, self._kenlm.State())
            scores_V = LN_10 * word * self._begins_V
            scores_V[SOS_EOS_ID] = LN_10 * end
        self._rows[row] = scores_V
        if len(self._rows) > CACHED:
            self._rows.popitem(last=False)
        return scores_V

    def _context(self, words: Sequence[int]) -> Any:
        """KenLM's state after the last words: no n-gram is longer than these."""
        state = self._kenlm.State()
        self._model.NullContextWrite(state)
        for index in words:
            if index == _EMPTY:
                continue
            if self._words[index] == START:
                self._model.BeginSentenceWrite(state)
                continue
            after = self._kenlm.State()
            self._model.BaseScore(state, self._words[index], after)
            state = after
        return state

    def _find_unit(self, path: Path) -> bool:
        """Whether the n-gram is over pieces; else it is over words."""
        said = [name for index, name in enumerate(self._names) if index > UNK_ID]
        in_common = sum(name in self._model for name in said)
        marked = [name for name in said if name.startswith(WORD_START)]
        # Where no piece begins a word, as in Chinese characters, an n-gram can only be over pieces.
        if any(name in self._model for name in marked) or (not marked and in_common):
            if in_common < len(said):
                raise UserError(
                    f"{path}: an n-gram over pieces, but over others: it has {in_common} of the recognizer's "
                    f"{len(said)}"
                )
            return True
        words = [name.removeprefix(WORD_START) for name in marked if name != WORD_START]
        if any(word in self._model for word in words):
            return False
        if marked and not words:  # characters, which show only by chance whether words are spelled alike
            if not in_common:
                log.warning("%s: taken for an n-gram over words; no character is a word in it", path)
            return False
        raise UserError(
            f"{path}: the n-gram knows none of the recognizer's pieces and no word that is one of them, such "
            f"as {', '.join((words or said)[:3])}: other pieces, or another spelling"
        )


def _import_kenlm() -> Any:
    try:
        import kenlm
    except ImportError:
        raise UserError("an n-gram needs KenLM: pip install 'kdasr[ngram]', or ufal-kenlm") from None
    return kenlm


def _open(kenlm: Any, path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: no such n-gram")
    config = kenlm.Config()
    config.show_progress = False
    try:
        return kenlm.Model(str(path), config)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: KenLM cannot read this n-gram: {first_line(error)}") from None
