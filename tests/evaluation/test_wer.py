"""Word errors with known values, and the layout of the files that icefall users read."""

from pathlib import Path

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdasr.evaluation.wer import (
    AlignedPair,
    ErrorCounts,
    Scored,
    align_words,
    character_errors,
    word_errors,
    write_errs,
    write_recogs,
)


@pytest.mark.parametrize(
    ("ref", "hyp", "expected"),
    [
        ("A B C", "A B C", ErrorCounts(0, 0, 0, 3)),
        ("A B C", "A X C", ErrorCounts(1, 0, 0, 3)),
        ("A B C", "A C", ErrorCounts(0, 0, 1, 3)),
        ("A B C", "A B D C", ErrorCounts(0, 1, 0, 3)),
        ("A B C D", "B C E D F", ErrorCounts(0, 2, 1, 4)),
        ("", "A B", ErrorCounts(0, 2, 0, 0)),
        ("A B", "", ErrorCounts(0, 0, 2, 2)),
        ("", "", ErrorCounts(0, 0, 0, 0)),
        ("  A   B ", "A B", ErrorCounts(0, 0, 0, 2)),
        ("IT'S A", "ITS A", ErrorCounts(1, 0, 0, 2)),
    ],
)
def test_known_errors(ref: str, hyp: str, expected: ErrorCounts) -> None:
    assert word_errors(ref, hyp) == expected


words = st.lists(st.text("AB中", min_size=1, max_size=3), max_size=4)


@given(words, words)
def test_character_errors_are_jiwers(ref: list[str], hyp: list[str]) -> None:
    counts = character_errors(ref, hyp)
    assert counts.words == len(" ".join(ref))
    if ref:
        assert counts.rate == pytest.approx(100 * jiwer.cer(" ".join(ref), " ".join(hyp)))
    else:
        assert counts == ErrorCounts(insertions=len(" ".join(hyp)))


def test_words_are_split_at_spaces_alone() -> None:
    assert word_errors("A\x85B C", "A B C") == ErrorCounts(1, 1, 0, 2)


def test_alignment_names_both_sides() -> None:
    assert align_words(["A", "B", "C", "D"], ["A", "C", "D", "E"]) == [
        AlignedPair(0, 0, True),
        AlignedPair(1, None, False),
        AlignedPair(2, 1, True),
        AlignedPair(3, 2, True),
        AlignedPair(None, 3, False),
    ]


def test_rates() -> None:
    assert (ErrorCounts(1, 1, 1, 12) + ErrorCounts(0, 0, 0, 8)).rate == pytest.approx(15.0)
    assert ErrorCounts().rate == 0.0
    assert ErrorCounts(insertions=2).rate == 100.0


UTTERANCES = [
    Scored("1-1-0", ["THE", "CAT", "SAT"], ["THE", "BAT", "SAT"]),
    Scored("1-1-1", ["THE", "CAT", "SAT"], ["CAT", "SAT", "DOWN"]),
    Scored("1-1-2", [], ["UH"]),
    Scored("1-1-3", ["ON", "NOW"], ["IN"]),
    Scored("1-1-4", [], []),
]


def test_recogs_lines(tmp_path: Path) -> None:
    write_recogs(tmp_path / "recogs.txt", UTTERANCES[:2])
    assert (tmp_path / "recogs.txt").read_text().splitlines() == [
        "1-1-0:\tref=['THE', 'CAT', 'SAT']",
        "1-1-0:\thyp=['THE', 'BAT', 'SAT']",
        "1-1-1:\tref=['THE', 'CAT', 'SAT']",
        "1-1-1:\thyp=['CAT', 'SAT', 'DOWN']",
    ]


def test_errs_sections(tmp_path: Path) -> None:
    totals = write_errs(tmp_path / "errs.txt", UTTERANCES)
    assert totals == ErrorCounts(substitutions=2, insertions=2, deletions=2, words=8)
    assert (tmp_path / "errs.txt").read_text().splitlines() == [
        "%WER = 75.00",
        "Errors: 2 insertions, 2 deletions, 2 substitutions, over 8 reference words (4 correct)",
        "%CER = 57.14",
        "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, DELETIONS:, "
        "INSERTIONS:, PER-WORD STATS:",
        "",
        "PER-UTT DETAILS: corr or (ref->hyp)  ",
        "1-1-0:\tTHE (CAT->BAT) SAT",
        "1-1-1:\t(THE->*) CAT SAT (*->DOWN)",
        "1-1-2:\t(*->UH)",
        "1-1-3:\t(ON NOW->IN)",
        "1-1-4:\t",
        "",
        "SUBSTITUTIONS: count ref -> hyp",
        "1   CAT -> BAT",
        "1   ON -> IN",
        "",
        "DELETIONS: count ref",
        "1   NOW",
        "1   THE",
        "",
        "INSERTIONS: count hyp",
        "1   DOWN",
        "1   UH",
        "",
        "PER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp",
        "BAT   0 1 0 1",
        "CAT   1 1 2 1",
        "DOWN   0 1 0 1",
        "IN   0 1 0 1",
        "NOW   0 1 1 0",
        "ON   0 1 1 0",
        "THE   1 1 2 1",
        "UH   0 1 0 1",
        "SAT   2 0 2 2",
    ]
