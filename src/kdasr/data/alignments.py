"""Word alignments of a part in LibriSpeech-Alignments' text form: read, and checked against the audio."""

import re
from pathlib import Path

from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.corpus_check import PartListing
from kdasr.data.text_normalization import TextNormalizer
from kdasr.data.word_times import fault_in_times

log = get_logger(__name__)


def part_alignments(listing: PartListing) -> dict[str, list[AlignmentItem]]:
    """Words and silences (empty words) of each utterance whose alignment is sound.

    Utterances whose times cannot be true are left out, and counted in the log, as are those whose words are
    not the transcript's.

    Raises:
        UserError: a file in another form; names file and line.
    """
    read: dict[str, list[AlignmentItem]] = {}
    for file in sorted({item.alignment for item in listing.utterances if item.alignment is not None}):
        read.update(read_alignments(file))
    alignments: dict[str, list[AlignmentItem]] = {}
    faults: list[str] = []
    different: list[str] = []
    normalize = TextNormalizer()
    for utterance in listing.utterances:
        items = read.get(utterance.id)
        if items is None:
            continue
        seconds = utterance.header.num_samples / utterance.header.sample_rate
        fault = fault_in_times(items, seconds) if items else "words and times are not equally many"
        if fault:
            faults.append(f"{utterance.id} ({fault})")
            continue
        alignments[utterance.id] = items
        words = " ".join(item.symbol for item in items if item.symbol)
        if normalize(words).casefold() != normalize(utterance.text).casefold():
            different.append(utterance.id)
    for what, names in (
        ("alignment(s) left out, with times that cannot be true", faults),
        ("alignment(s) whose words are not the transcript's", different),
    ):
        if names:
            log.warning("%s: %d %s: %s", listing.name, len(names), what, quote(names))
    unaligned = len(listing.utterances) - len(alignments)
    if unaligned:
        total = len(listing.utterances)
        log.info("%s: %d of %d utterances have no word alignment", listing.name, unaligned, total)
    return alignments


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
