"""Word errors by jiwer's alignment, and the `recogs` and `errs` files that icefall users know."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jiwer

from kdasr.common.files import write_text
from kdasr.data.text_normalization import split_words


class AlignedPair(NamedTuple):
    """One column of an alignment; None marks the side that has no word."""

    ref: int | None
    """Index of the reference word; None: an insertion."""
    hyp: int | None
    """Index of the recognized word; None: a deletion."""
    correct: bool


@dataclass(frozen=True)
class ErrorCounts:
    """Errors of one utterance, or of many when added up: of words, or of characters."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    words: int = 0
    """Of the reference, or its characters."""

    @property
    def total(self) -> int:
        """Errors of all kinds."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Error rate in percent. Without reference words: 0 when nothing was recognized, else 100."""
        if self.words == 0:
            return 100.0 if self.total else 0.0
        return 100.0 * self.total / self.words

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.words + other.words,
        )


@dataclass(frozen=True)
class Scored:
    """Reference and recognized words of one utterance."""

    id: str
    ref: list[str]
    hyp: list[str]


def align_words(ref: Sequence[str], hyp: Sequence[str]) -> list[AlignedPair]:
    """Align two word sequences with the fewest errors, all kinds counting the same.

    Empty sequences are allowed on either side (jiwer itself refuses an empty reference).
    """
    if not ref or not hyp:
        deleted = [AlignedPair(index, None, False) for index in range(len(ref))]
        return deleted + [AlignedPair(None, index, False) for index in range(len(hyp))]
    # The words are already split: jiwer's own clean-up would merge or drop some.
    as_they_are = jiwer.Compose([jiwer.ReduceToListOfListOfWords(word_delimiter="\n")])
    output = jiwer.process_words("\n".join(ref), "\n".join(hyp), as_they_are, as_they_are)
    pairs = []
    for chunk in output.alignments[0]:
        refs = range(chunk.ref_start_idx, chunk.ref_end_idx)
        hyps = range(chunk.hyp_start_idx, chunk.hyp_end_idx)
        if chunk.type == "delete":
            pairs += [AlignedPair(index, None, False) for index in refs]
        elif chunk.type == "insert":
            pairs += [AlignedPair(None, index, False) for index in hyps]
        else:
            pairs += [AlignedPair(r, h, chunk.type == "equal") for r, h in zip(refs, hyps, strict=True)]
    return pairs


def count_errors(pairs: Sequence[AlignedPair]) -> ErrorCounts:
    """Add up the errors of an alignment."""
    return ErrorCounts(
        substitutions=sum(p.ref is not None and p.hyp is not None and not p.correct for p in pairs),
        insertions=sum(p.ref is None for p in pairs),
        deletions=sum(p.hyp is None for p in pairs),
        words=sum(p.ref is not None for p in pairs),
    )


def word_errors(ref: str | Sequence[str], hyp: str | Sequence[str]) -> ErrorCounts:
    """Errors of one utterance; strings, which are normalized as the pieces are, are split at spaces."""
    ref_words = split_words(ref) if isinstance(ref, str) else ref
    hyp_words = split_words(hyp) if isinstance(hyp, str) else hyp
    return count_errors(align_words(ref_words, hyp_words))


def character_errors(ref: Sequence[str], hyp: Sequence[str]) -> ErrorCounts:
    """Errors of one utterance's words in characters (Unicode's code points, the spaces between words too)."""
    ref_text, hyp_text = " ".join(ref), " ".join(hyp)
    if not ref_text or not hyp_text:
        return ErrorCounts(insertions=len(hyp_text), deletions=len(ref_text), words=len(ref_text))
    as_they_are = jiwer.Compose([jiwer.ReduceToListOfListOfChars()])
    output = jiwer.process_characters(ref_text, hyp_text, as_they_are, as_they_are)
    return ErrorCounts(output.substitutions, output.insertions, output.deletions, len(ref_text))


def write_recogs(path: Path, utterances: Sequence[Scored]) -> None:
    """Write icefall's `recogs` file: two lines per utterance, `ID:<tab>ref=[...]` and `ID:<tab>hyp=[...]`."""
    lines = []
    for utterance in utterances:
        lines.append(f"{utterance.id}:\tref={utterance.ref}")
        lines.append(f"{utterance.id}:\thyp={utterance.hyp}")
    write_text(path, "".join(f"{line}\n" for line in lines))


def write_errs(path: Path, utterances: Sequence[Scored]) -> ErrorCounts:
    """Write icefall's `errs` file and return the totals.

    It holds the summary (with the character error rate, which icefall's has not), every utterance with its
    errors as `(ref->hyp)` (`*` for the empty side), the counts of each substitution, deletion and insertion,
    and one line of counts per word.
    """
    aligned = [(utterance, align_words(utterance.ref, utterance.hyp)) for utterance in utterances]
    totals = sum((count_errors(pairs) for _, pairs in aligned), ErrorCounts())
    characters = sum((character_errors(item.ref, item.hyp) for item in utterances), ErrorCounts())
    correct = totals.words - totals.substitutions - totals.deletions
    lines = [
        f"%WER = {totals.rate:.2f}",
        f"Errors: {totals.insertions} insertions, {totals.deletions} deletions, {totals.substitutions} "
        f"substitutions, over {totals.words} reference words ({correct} correct)",
        f"%CER = {characters.rate:.2f}",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, "
        "INSERTIONS:, PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)  ",
        *(f"{utterance.id}:\t{format_alignment(utterance, pairs)}" for utterance, pairs in aligned),
        *_error_tables(aligned),
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return totals


def format_alignment(utterance: Scored, pairs: Sequence[AlignedPair]) -> str:
    """Correct words as they are; each run of errors as one `(ref words->recognized words)`."""
    parts: list[str] = []
    wrong_ref: list[str] = []
    wrong_hyp: list[str] = []

    def close_run() -> None:
        if wrong_ref or wrong_hyp:
            parts.append(f"({' '.join(wrong_ref) or '*'}->{' '.join(wrong_hyp) or '*'})")
            wrong_ref.clear()
            wrong_hyp.clear()

    for pair in pairs:
        if pair.correct:
            close_run()
            parts.append(utterance.ref[pair.ref])  # type: ignore[index]
            continue
        if pair.ref is not None:
            wrong_ref.append(utterance.ref[pair.ref])
        if pair.hyp is not None:
            wrong_hyp.append(utterance.hyp[pair.hyp])
    close_run()
    return " ".join(parts)


class _WordCounts(NamedTuple):
    correct: Counter[str]
    substituted: Counter[tuple[str, str]]
    deleted: Counter[str]
    inserted: Counter[str]


def _count_words(aligned: Sequence[tuple[Scored, list[AlignedPair]]]) -> _WordCounts:
    counts = _WordCounts(Counter(), Counter(), Counter(), Counter())
    for utterance, pairs in aligned:
        for pair in pairs:
            if pair.ref is None:
                counts.inserted[utterance.hyp[pair.hyp]] += 1  # type: ignore[index]
            elif pair.hyp is None:
                counts.deleted[utterance.ref[pair.ref]] += 1
            elif pair.correct:
                counts.correct[utterance.ref[pair.ref]] += 1
            else:
                counts.substituted[utterance.ref[pair.ref], utterance.hyp[pair.hyp]] += 1
    return counts


def _error_tables(aligned: Sequence[tuple[Scored, list[AlignedPair]]]) -> list[str]:
    counts = _count_words(aligned)
    lines = ["", "SUBSTITUTIONS: count ref -> hyp"]
    pairs = sorted(counts.substituted.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"{count}   {ref} -> {hyp}" for (ref, hyp), count in pairs]
    for title, table in (
        ("DELETIONS: count ref", counts.deleted),
        ("INSERTIONS: count hyp", counts.inserted),
    ):
        lines += ["", title]
        lines += [f"{count}   {word}" for word, count in sorted(table.items(), key=lambda i: (-i[1], i[0]))]
    ref_side: Counter[str] = Counter()
    hyp_side: Counter[str] = Counter()
    for (ref, hyp), count in counts.substituted.items():
        ref_side[ref] += count
        hyp_side[hyp] += count
    wrong = ref_side + hyp_side + counts.deleted + counts.inserted
    lines += ["", "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp"]
    for word in sorted(counts.correct.keys() | wrong.keys(), key=lambda w: (-wrong[w], w)):
        in_ref = counts.correct[word] + ref_side[word] + counts.deleted[word]
        in_hyp = counts.correct[word] + hyp_side[word] + counts.inserted[word]
        lines.append(f"{word}   {counts.correct[word]} {wrong[word]} {in_ref} {in_hyp}")
    return lines
