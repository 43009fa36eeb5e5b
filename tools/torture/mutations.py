"""Damage as files suffer it: random bytes, cuts, foreign content, and what editors and scripts do to text."""

import re
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

SEPARATORS = ("\x00", "\x0b", "\x0c", "\x85", "\u2028", "\ufeff", "\u200b", "\r", "\r\n", "\t", "\u0301")
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e400",
    "99999999999999999999",
    "-0.0",
    "",
    "null",
    "[]",
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


def flip(content: bytes, draws: Random) -> bytes:
    """One to eight bytes are others."""
    damaged = bytearray(content)
    for _ in range(draws.randint(1, 8)):
        damaged[draws.randrange(len(damaged))] ^= draws.randint(1, 255)
    return bytes(damaged)


def truncate(content: bytes, draws: Random) -> bytes:
    """The end is missing, perhaps all."""
    return content[: draws.randrange(len(content))]


def repeat(content: bytes, draws: Random) -> bytes:
    """A stretch, or all, stands there twice."""
    start = draws.randrange(len(content))
    end = draws.randint(start, len(content))
    return content[:end] + content[start:end] + content[end:]


def remove(content: bytes, draws: Random) -> bytes:
    """A stretch is missing."""
    start = draws.randrange(len(content))
    return content[:start] + content[min(len(content), start + draws.randint(1, 64)) :]


def empty(content: bytes, draws: Random) -> bytes:
    """Nothing, or nothing but zeros, is left."""
    return bytes(len(content)) if draws.random() < 0.5 else b""


def foreign(content: bytes, draws: Random) -> bytes:
    """It is another file altogether."""
    page = b"<html><body>404 Not Found</body></html>\n"
    return draws.choice(
        [page, b"PK\x03\x04" + draws.randbytes(200), draws.randbytes(300), b"[1, 2]\n", b"{}\n"]
    )


def insert_separator(content: bytes, draws: Random) -> bytes:
    """A character that looks like nothing stands somewhere between two others."""
    text = content.decode()
    place = draws.randint(0, len(text))
    return (text[:place] + draws.choice(SEPARATORS) + text[place:]).encode()


def swap_lines(content: bytes, draws: Random) -> bytes:
    """Two lines have changed places, or the words of a line have."""
    lines = content.split(b"\n")
    first, second = draws.randrange(len(lines)), draws.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def repeat_line(content: bytes, draws: Random) -> bytes:
    """A line stands there twice, or is missing."""
    lines = content.split(b"\n")
    place = draws.randrange(len(lines))
    lines[place : place + 1] = [lines[place]] * draws.choice([0, 2])
    return b"\n".join(lines)


def another_number(content: bytes, draws: Random) -> bytes:
    """A number is none, or an impossible one."""
    places = list(_NUMBER.finditer(content))
    if not places:
        return flip(content, draws)
    found = draws.choice(places)
    return content[: found.start()] + draws.choice(NUMBERS).encode() + content[found.end() :]


def remove_word(content: bytes, draws: Random) -> bytes:
    """A word, a key or a bracket is missing."""
    places = list(re.finditer(rb"\w+|[^\w\s]", content))
    found = draws.choice(places)
    return content[: found.start()] + content[found.end() :]


OF_BYTES: tuple[Mutation, ...] = (flip, flip, flip, truncate, truncate, repeat, remove, empty, foreign)
OF_TEXT: tuple[Mutation, ...] = (
    *OF_BYTES,
    insert_separator,
    insert_separator,
    swap_lines,
    repeat_line,
    another_number,
    another_number,
    remove_word,
)
