"""NIST's ctm: `ID CHANNEL BEGIN DURATION WORD [CONFIDENCE]` per line; `;;` begins a comment.

An ID is an utterance, of one channel; where nothing was recognized, it has no line. The end of a word is
where its last piece is taken to have been emitted.
"""

from pathlib import Path

from kdasr.common.lines import text_lines
from kdasr.data.text_normalization import split_words
from kdasr.evaluation.foreign.base import HeardWord, Hypothesis, not_in_format, register_format


@register_format("ctm")
def read(path: Path) -> list[Hypothesis]:
    """See the module; words are in the order of their begin.

    Raises:
        UserError: a line in another form, or an ID with several channels.
    """
    found: dict[str, list[HeardWord]] = {}
    channels: dict[str, str] = {}
    for number, line in enumerate(text_lines(path), start=1):
        # Blanks and tabs alone part fields: French words may hold a space that does not break.
        fields = split_words(line.replace("\t", " "))
        if not fields or fields[0].startswith(";;"):
            continue
        try:
            name, channel, begin, duration, word = fields[:5]
            if (other := channels.setdefault(name, channel)) != channel:
                raise ValueError(f"'{name}' has the channels {other} and {channel}; each needs its own ID")
            first = float(begin)
            found.setdefault(name, []).append(HeardWord(word, first, first + float(duration), is_end=True))
        except ValueError as error:
            raise not_in_format(path, number, "ctm", error) from None
    return [Hypothesis(name, sorted(words, key=lambda word: word.first)) for name, words in found.items()]
