"""Where a line of somebody else's text ends."""

from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.common.lines import split_lines, text_lines

SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` takes for the end of a line, besides newlines."""


def test_a_line_ends_at_a_newline_and_nowhere_else() -> None:
    assert len(f"a{SEPARATORS}b".splitlines()) == len(SEPARATORS) + 1
    for end in ("\n", "\r\n", "\r"):
        text = f"one{end}two {SEPARATORS} more{end}{end}last"
        assert split_lines(text) == split_lines(text + end) == ["one", f"two {SEPARATORS} more", "", "last"]
    assert split_lines("a \r b\nc\n") == ["a \r b", "c"]
    assert split_lines("") == []
    assert split_lines("\n") == [""]


def test_files_are_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    for mark in (b"", b"\xef\xbb\xbf"):
        file.write_bytes(mark + "É\u2028È\r\nÀ".encode())
        assert text_lines(file) == ["É\u2028È", "À"]
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"text\.txt: not UTF-8 text"):
        text_lines(file)


def test_what_a_crash_leaves_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(b"one 1\ntwo \0\0\0\0\nfour 4\n")
    with pytest.raises(UserError, match=r"text\.txt, line 2: a NUL character"):
        text_lines(file)
