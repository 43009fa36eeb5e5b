"""Word alignments in LibriSpeech-Alignments' text form."""

import re
from collections.abc import Iterable
from pathlib import Path

from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines


def read_all(files: Iterable[Path]) -> dict[str, list[AlignmentItem]]:
    """Words and silences (empty words) of the utterances in some files.

    Raises:
        UserError: a file in another form; names file and line.
    """
    read: dict[str, list[AlignmentItem]] = {}
    for file in sorted(files):
        read.update(read_alignments(file))
    return read


def read_alignments(file: Path) -> dict[str, list[AlignmentItem]]:
    """The words of each line, `<id> "<word>,<word>,..." "<end>,<end>,..."`, each from the end before it.

    Where words and times are not equally many, nothing is known.

    Raises:
        UserError: a line in another form.
    """
    alignments: dict[str, list[AlignmentItem]] = {}
    for number, line in enumerate(text_lines(file), start=1):
        if not line.strip():
            continue
        try:
            name, quoted_words, quoted_ends = re.split(r"[ \t]+", line.strip())
            words = quoted_words.replace('"', "").split(",")
            ends = [float(end) for end in quoted_ends.replace('"', "").split(",")]
            places = zip(words, [0.0, *ends[:-1]], ends, strict=True) if len(words) == len(ends) else ()
            items = [AlignmentItem(word, start, round(end - start, 8)) for word, start, end in places]
            if alignments.setdefault(name, items) != items:
                raise ValueError(f"utterance '{name}' is there twice, with other words or times")
        except ValueError as error:
            raise UserError(
                f"{file}, line {number}: not in the LibriSpeech-Alignments text form: {error}"
            ) from None
    return alignments
