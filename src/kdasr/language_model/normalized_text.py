"""Text for language models without what is said in the audio.

A language model that has read the transcripts of speech whose transcripts are to be unknown has seen the
answer. Local prior matching (Hsu et al. 2020, arXiv 2002.10336) leaves out the books that the audio was
read from; lines of a normalized corpus do not say their book, so here a line goes when it shares a run of
words with a transcript, wherever the two were cut into lines. Shorter lines go when they are a transcript;
one that is a part of a transcript stays.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.errors import UserError
from kdasr.common.files import atomic_path
from kdasr.data.text_normalization import TextNormalizer
from kdasr.data.text_units import units
from kdasr.language_model.text import read_lines

Normalize = Callable[[str], str]


@dataclass
class Filtered:
    """What became of the lines of a text."""

    kept: int = 0
    dropped: int = 0


class KnownRuns:
    """Runs of words that occur in some transcripts: by their hashes, some 70 bytes each."""

    def __init__(self, transcripts: Iterable[str], length: int, normalize: Normalize | None = None) -> None:
        """
        Args:
            transcripts: whose words; where writing has no spaces between them, characters stand for them.
            length: words of a run; of a shorter transcript all words are one.
            normalize: gives transcripts and lines one spelling; that of a tokenizer. None: the usual rule.

        Raises:
            ValueError: a length below 1.
        """
        if length < 1:
            raise ValueError(f"runs of {length} words")
        self.length = length
        self._normalize = normalize or TextNormalizer()
        self._hashes = {run for text in transcripts for run in self._runs(text)}

    def occur_in(self, line: str) -> bool:
        """Whether a line shares a run with a transcript; a shorter line only if it is a whole transcript."""
        return any(run in self._hashes for run in self._runs(line))

    def _runs(self, text: str) -> Iterator[int]:
        words = units(self._normalize(text))
        if not words:
            return
        for start in range(max(len(words) - self.length, 0) + 1):
            yield hash(tuple(words[start : start + self.length]))


def write_unknown_lines(
    sources: Iterable[Path],
    transcripts: Iterable[str],
    out: Path,
    length: int,
    normalize: Normalize | None = None,
) -> Filtered:
    """Copy the lines of some texts that share no run of `length` words with a transcript.

    Lines are compared in the spelling of `normalize` (see `KnownRuns`) and copied in their own. Empty lines
    are left out. `out` is written in one step; a text is read line by line, once.

    Raises:
        UserError: a text is missing or is not text, or nothing is left of them.
    """
    known = KnownRuns(transcripts, length, normalize)
    counts = Filtered()
    with atomic_path(out) as partial, partial.open("w", encoding="utf-8") as file:
        for source in sources:
            for line in read_lines(source):
                text = " ".join(line.split())
                if not text:
                    continue
                if known.occur_in(text):
                    counts.dropped += 1
                else:
                    counts.kept += 1
                    file.write(f"{text}\n")
        if not counts.kept:
            raise UserError(f"nothing is left of the text: all {counts.dropped} lines are in transcripts")
    return counts
