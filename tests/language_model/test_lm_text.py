"""Text for language models: which lines share words with transcripts."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdasr.common.errors import UserError
from kdasr.language_model.normalized_text import Filtered, KnownRuns, write_unknown_lines

words = st.lists(st.sampled_from("ABC"), max_size=8).map(" ".join)


def shares_run(line: str, transcripts: list[str], length: int) -> bool:
    """By comparing every run with every run."""

    def runs(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        whole = {tuple(found)} if 0 < len(found) <= length else set()
        return whole | {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}

    return any(runs(line) & runs(text) for text in transcripts)


@settings(deadline=None)
@given(words, st.lists(words, max_size=4), st.integers(1, 5))
def test_the_lines_that_share_a_run_are_found(line: str, transcripts: list[str], length: int) -> None:
    assert KnownRuns(transcripts, length).occur_in(line) == shares_run(line, transcripts, length)


def test_a_run_is_found_wherever_the_lines_were_cut() -> None:
    spelled = KnownRuns(["UN CAFE\u0301\u200b\uff11\uff12 FOIS"], 4)
    assert spelled.occur_in("JE BOIS UN CAFÉ 12 FOIS") and not spelled.occur_in("UN CAFE 12 FOIS")
    known = KnownRuns(["AND THEN THE CAT SAT", "DOWN THERE"], 3)
    assert known.occur_in("HE SAYS THE CAT SAT DOWN")
    assert not known.occur_in("THE CAT AND THEN SAT DOWN")
    assert known.occur_in("DOWN THERE")
    assert not known.occur_in("DOWN THERE IT IS")
    unspaced = KnownRuns(["今天天气很好我们去公园"], 6)
    assert unspaced.occur_in("他说今天天气很好") and not unspaced.occur_in("今天公园很好")


def test_lines_are_copied_in_order_without_the_known_ones(tmp_path: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("ONE TWO THREE\n\nFOUR  FIVE\n")
    second.write_text("SIX\n")
    counts = write_unknown_lines([first, second], ["ONE TWO"], tmp_path / "out.txt", 2)
    assert (tmp_path / "out.txt").read_text() == "FOUR FIVE\nSIX\n"
    assert counts == Filtered(kept=2, dropped=1)


def test_a_text_of_transcripts_alone_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("ONE TWO\n")
    with pytest.raises(UserError, match="all 1 lines"):
        write_unknown_lines([text], ["ONE TWO THREE"], tmp_path / "out.txt", 2)
    with pytest.raises(UserError, match="no such text file"):
        write_unknown_lines([tmp_path / "b.txt"], [], tmp_path / "out.txt", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt"]


def test_a_run_has_a_word() -> None:
    with pytest.raises(ValueError, match="0 words"):
        KnownRuns([], 0)
