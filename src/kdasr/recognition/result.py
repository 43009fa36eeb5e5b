"""What a recognizer says about a stream: pieces, words, and the audio time at which each could be shown."""

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Sequence, Set
from dataclasses import InitVar, dataclass, field
from itertools import accumulate
from typing import NamedTuple

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
    What happens to the pieces before it, their number staying the same, does not matter. A piece of audio
    that is heard again after an endpoint is shown when that was noticed. Compute time is not in it."""
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
    after_mark: bool = False
    """Whether a bare word boundary was the last piece before that cut: the first word here is another one."""
    breaks: tuple[int, ...] = ()
    """Indices of tokens that begin another segment than the token before them: no word goes across."""
    calibration: Calibration | None = field(default=None, compare=False)
    """Of the words' confidences."""
    frame_seconds: float = field(kw_only=True)
    """Duration of an encoder frame."""
    closed: InitVar["ClosedWords | None"] = field(default=None, kw_only=True)
    """The words of the first tokens, if they are known already; `breaks` are then none."""

    def __post_init__(self, closed: "ClosedWords | None") -> None:
        vars(self)["_closed"] = closed  # no field: it says nothing that the others do not

    @property
    def _known(self) -> "ClosedWords | None":
        closed: ClosedWords | None = vars(self)["_closed"]
        return closed

    @property
    def pieces(self) -> list[str]:
        """The pieces as text."""
        return [token.piece for token in self.tokens]

    @property
    def continues_word(self) -> bool:
        """Whether the first pieces belong to the last word of the segment before, which was cut in it."""
        is_open = self.goes_on and not self.after_mark
        return is_open and bool(self.tokens) and not self.tokens[0].piece.startswith(WORD_START)

    @property
    def words(self) -> list[Word]:
        """The words that the pieces spell."""
        closed = self._known
        words = [] if closed is None else closed.words[: closed.num_words]
        words += [_word(span, self.tokens, self.calibration, self.frame_seconds) for span in self._spans()]
        return words

    @property
    def text(self) -> str:
        """The words with single spaces between them."""
        closed = self._known
        texts = [closed.text] if closed is not None and closed.text else []
        return " ".join([*texts, *(span.text for span in self._spans())])

    def _spans(self) -> list[WordSpan]:
        """The words that are not known already."""
        closed = self._known
        if closed is None:
            return group_words(self.pieces, self.breaks)
        spans, rest = _grouped((token.piece for token in self.tokens[closed.rest.end :]), closed.rest)
        return spans + _last_word(rest)


class ClosedWords(NamedTuple):
    """The words at the start of a segment to which no piece can be added any more."""

    words: list[Word]
    """Later ones of the same stream follow them."""
    num_words: int
    text: str
    """They with single spaces between them."""
    rest: "_OpenWord"
    """The settled pieces after them."""


class GrowingWords:
    """The words of a segment while it grows: a piece that is settled is looked at once, not for every result.

    So the work for a result depends on what is new, but for copies of lists and text.
    """

    def __init__(self, calibration: Calibration | None, frame_seconds: float) -> None:
        """`calibration` and `frame_seconds` are those of the results."""
        self._calibration, self._frame_seconds = calibration, frame_seconds
        self._closed = ClosedWords([], 0, "", _OpenWord())

    def closed(self, tokens: Sequence[Token], num_settled: int) -> ClosedWords:
        """The closed words of the first `num_settled` tokens, which are what they were, and more."""
        words, _, text, rest = self._closed
        spans, rest = _grouped((token.piece for token in tokens[rest.end : num_settled]), rest)
        if spans:
            words += [_word(span, tokens, self._calibration, self._frame_seconds) for span in spans]
            text = " ".join([*([text] if text else []), *(span.text for span in spans)])
        self._closed = ClosedWords(words, len(words), text, rest)
        return self._closed


def _word(
    span: WordSpan, tokens: Sequence[Token], calibration: Calibration | None, frame_seconds: float
) -> Word:
    tokens = tokens[span.first_token : span.last_token + 1]
    raw = word_probability([token.log_confidence for token in tokens])
    return Word(
        **vars(span),
        start=round(frame_seconds * tokens[0].frame, 4),
        end=round(frame_seconds * (tokens[-1].frame + 1), 4),
        confidence=raw if calibration is None else calibration(raw),
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
    words, rest = _grouped(pieces, _OpenWord(), set(breaks))
    return words + _last_word(rest)


class _OpenWord(NamedTuple):
    """Pieces to which others may be added, after some words."""

    text: str = ""
    first: int = 0
    """Index of the word's first piece."""
    end: int = 0
    """Index after its last piece: of the piece that comes next."""
    before: str = ""
    """The piece before that one."""


def _grouped(
    pieces: Iterable[str], rest: _OpenWord, starts: Set[int] = frozenset()
) -> tuple[list[WordSpan], _OpenWord]:
    """The words that end among the next pieces, which follow `rest`, and what is left after them."""
    words: list[WordSpan] = []
    text, first, end, before = rest
    for index, piece in enumerate(pieces, end):
        if text and (piece.startswith(WORD_START) or index in starts):
            if shown := letters_of_bytes(text, is_open=index in starts):
                words.append(WordSpan(shown, first, index - 1))
            text = ""
        if not text:
            # A bare mark opens the word that follows it.
            bare_before = before == WORD_START and index not in starts
            first = first if bare_before else index
        text += piece.replace(WORD_START, "")
        end, before = index + 1, piece
    return words, _OpenWord(text, first, end, before)


def _last_word(rest: _OpenWord) -> list[WordSpan]:
    shown = letters_of_bytes(rest.text, is_open=True)
    return [WordSpan(shown, rest.first, rest.end - 1)] if shown else []


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
