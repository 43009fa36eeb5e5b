"""What a recognizer says about a stream: pieces, words, and the audio time at which each could be shown."""

import re
from codecs import getincrementaldecoder
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from kdasr.common.calibration import Calibration
from kdasr.data.tokenizer import WORD_START
from kdasr.decoding.confidence import word_probability
from kdasr.decoding.hypothesis import Emission, NBest


@dataclass(frozen=True)
class Token:
    """One emitted piece."""

    id: int
    piece: str
    frame: int
    """Encoder frame at which it was emitted, counted from the start of the stream."""
    shown: float
    """Audio seconds that must have arrived before it can be shown: up to the last sample of the window after
    which this piece stood at this place of the displayed result and has stayed there ever since, or the end
    of the input when that came first. Greedy search displays a piece once and for all; beam search may put
    another in its place, or take it away for a while, and it then counts from the last time that it came.
    What happens to the pieces before it, their number staying the same, does not matter. Compute time is
    not in it."""
    log_prob: float = field(compare=False)
    """Natural logarithm of the probability that the model gave the piece at its frame."""
    log_confidence: float = field(compare=False)
    """The same without the blank: how sure the model is that it is this piece, not that it is now."""

    @classmethod
    def of(cls, emission: Emission, piece: str, frame: int, shown: float) -> "Token":
        """The token of what a search emitted."""
        return cls(emission.token, piece, frame, shown, emission.log_prob, emission.log_confidence)


@dataclass(frozen=True)
class WordSpan:
    """The pieces of one recognized word."""

    text: str
    first_token: int
    """Index of its first piece in the result's tokens."""
    last_token: int
    """Index of its last piece."""


@dataclass(frozen=True)
class Word(WordSpan):
    """One recognized word, with when it was emitted and how sure the model is of it."""

    start: float
    """Audio seconds at which the frame of its first piece begins, from the start of the stream. A transducer
    emits a piece once it has heard enough of it, so that words are rather late than early."""
    end: float
    """Audio seconds at which the frame of its last piece ends."""
    confidence: float = field(compare=False)
    """Probability that it was said: calibrated where the system is (`kdasr calibrate`), else as the model has
    it, which ranks words but is not to be believed as it is."""


@dataclass(frozen=True)
class Alternative:
    """One entry of an n-best list."""

    text: str
    score: float
    """Natural logarithm of its probability, with what language model and biasing added."""
    tokens: tuple[int, ...] = field(default=(), compare=False)
    """Its pieces."""


def alternative(text: str, entry: NBest) -> Alternative:
    """The entry that a search has found, which spells this text."""
    return Alternative(text, entry.score, tuple(entry.tokens))


@dataclass(frozen=True)
class Result:
    """The best hypothesis of a stream's segment so far, or of all its segments (`join_segments`)."""

    tokens: list[Token]
    is_final: bool
    """Whether nothing can change it any more: the segment has come to an endpoint, or the input has ended and
    all of it was decoded."""
    nbest: list[Alternative] = field(default_factory=list)
    """The best hypotheses, this one first, if they were asked for."""
    segment: int = 0
    """Number of the segment in its stream, where those without a piece do not count."""
    start: float = 0.0
    """Seconds of the stream at which the segment begins."""
    goes_on: bool = False
    """Whether the segment before was cut by its length alone, so that its last word may go on in this one."""
    breaks: tuple[int, ...] = ()
    """Indices of tokens that begin another segment than the token before them: no word goes across."""
    calibration: Calibration | None = field(default=None, compare=False)
    """Of the words' confidences."""
    frame_seconds: float = field(kw_only=True)
    """Duration of an encoder frame."""

    @property
    def pieces(self) -> list[str]:
        """The pieces as text."""
        return [token.piece for token in self.tokens]

    @property
    def words(self) -> list[Word]:
        """The words that the pieces spell."""
        return [self._word(span) for span in group_words(self.pieces, self.breaks)]

    @property
    def text(self) -> str:
        """The words with single spaces between them."""
        return " ".join(span.text for span in group_words(self.pieces, self.breaks))

    def _word(self, span: WordSpan) -> Word:
        tokens = self.tokens[span.first_token : span.last_token + 1]
        raw = word_probability([token.log_confidence for token in tokens])
        return Word(
            **vars(span),
            start=round(self.frame_seconds * tokens[0].frame, 4),
            end=round(self.frame_seconds * (tokens[-1].frame + 1), 4),
            confidence=raw if self.calibration is None else self.calibration(raw),
        )


def join_segments(segments: Sequence[Result]) -> Result:
    """The final results of a stream's segments as one. A single segment keeps its n-best list.

    A word that was cut by the length of a segment is whole again.
    """
    if len(segments) == 1:
        return segments[0]
    ends = accumulate(len(segment.tokens) for segment in segments)
    breaks = [end for end, following in zip(ends, segments[1:], strict=False) if not following.goes_on]
    tokens = [token for segment in segments for token in segment.tokens]
    calibration, frame_seconds = (
        (segments[0].calibration, segments[0].frame_seconds) if segments else (None, 0.0)
    )
    return Result(
        tokens, is_final=True, breaks=tuple(breaks), calibration=calibration, frame_seconds=frame_seconds
    )


def join_words(pieces: Sequence[str]) -> str:
    """The words that some pieces spell, with single spaces between them."""
    return " ".join(word.text for word in group_words(pieces))


def group_words(pieces: Sequence[str], breaks: Sequence[int] = ()) -> list[WordSpan]:
    """Join pieces to words at SentencePiece's boundary mark, and nowhere across `breaks`.

    Pieces before the first mark make a word too. A mark that no letter follows makes none: its piece
    counts to the next word, and a last one to nothing. Pieces of one byte are put together to letters; what
    is not yet one at the end, or before a break, is not shown.
    """
    words: list[WordSpan] = []
    text, first, last = "", 0, 0
    starts = set(breaks)
    for index, piece in enumerate(pieces):
        if text and (piece.startswith(WORD_START) or index in starts):
            if shown := letters_of_bytes(text, is_open=index in starts):
                words.append(WordSpan(shown, first, last))
            text = ""
        if not text:
            # A bare mark opens the word that follows it.
            bare_before = index > 0 and pieces[index - 1] == WORD_START and index not in starts
            first = first if bare_before else index
        text += piece.replace(WORD_START, "")
        last = index
    if text and (shown := letters_of_bytes(text, is_open=True)):
        words.append(WordSpan(shown, first, last))
    return words


_BYTES = re.compile("(?:<0x[0-9A-F]{2}>)+")
"""Pieces that are bytes of UTF-8: by SentencePiece's byte fallback, a letter that is no piece is several."""


def letters_of_bytes(text: str, is_open: bool = False) -> str:
    """A text of pieces in which those of one byte are put together to letters.

    `is_open`: more may follow, so that a letter that is not whole at the end is left out.
    """

    def decoded(run: re.Match[str]) -> str:
        is_whole = run.end() < len(text) or not is_open
        decoder = getincrementaldecoder("utf-8")("replace")
        return decoder.decode(bytes.fromhex(re.sub("<0x|>", "", run[0])), final=is_whole)

    return _BYTES.sub(decoded, text)
