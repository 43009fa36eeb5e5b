"""Lines of text that others wrote.

A line ends at a newline and nowhere else. `str.splitlines` also cuts at a form feed, at U+0085 and at
U+2028, which occur in transcripts and would end them early.
"""

from pathlib import Path

from kdasr.common.errors import UserError


def split_lines(text: str) -> list[str]:
    """The lines of a text without their ends: LF, or CR LF, or CR where a text has no LF at all."""
    end = "\r" if "\r" in text and "\n" not in text else "\n"
    lines = text.split(end)
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def text_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, of which a byte order mark is no part.

    Raises:
        UserError: not UTF-8 text, or text with NUL characters, which a crash leaves in the place of what was
            written last; names the file.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    if b"\0" in content:
        number = content[: content.index(b"\0")].count(b"\n") + 1
        raise UserError(f"{path}, line {number}: a NUL character: damaged, or not UTF-8 text")
    try:
        return split_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
