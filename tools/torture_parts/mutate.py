"""Ways in which files get damaged or are wrongly made: of bytes, of text, and of structured values."""

import copy
import math
import random
import re
from collections.abc import Callable
from typing import Any

SEPARATORS = (
    "\0",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\u200b",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\r",
    "\t",
    "\u3000",
)
NUMBERS = (
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e308",
    "-1e30",
    "99999999999999999999",
    "2147483648",
    "0.5",
    "1_0",
)
NUMBER_VALUES = (math.nan, math.inf, -math.inf, -1, 0, 1e308, -1e30, 10**20, 2**31, 0.5, True)
OTHER_VALUES: tuple[Any, ...] = (None, "", "x", [], {}, [1, "a"], {"a": None}, "nan", -7)

Change = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, rng: random.Random) -> bytes:
    """One to three flipped bits."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        changed[_near(len(changed), rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """The end is missing, often only a few bytes of it."""
    count = rng.randint(1, 16) if rng.random() < 0.3 else rng.randrange(1, len(content) + 1)
    return content[: max(0, len(content) - count)]


def duplicate(content: bytes, rng: random.Random) -> bytes:
    """A stretch, or all of it, twice."""
    if rng.random() < 0.3:
        return content + content
    first = rng.randrange(len(content))
    last = min(len(content), first + rng.randint(1, 400))
    return content[:last] + content[first:last] + content[last:]


def insert(content: bytes, rng: random.Random) -> bytes:
    """A NUL or an odd separator somewhere."""
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice(SEPARATORS).encode() + content[place:]


def blank(content: bytes, rng: random.Random) -> bytes:
    """A stretch of zeros, as of a block that was never written."""
    first = rng.randrange(len(content))
    last = min(len(content), first + rng.randint(1, 600))
    return content[:first] + bytes(last - first) + content[last:]


def empty(content: bytes, rng: random.Random) -> bytes:
    """Nothing."""
    return b""


def swap_lines(content: bytes, rng: random.Random) -> bytes:
    """Two lines change places."""
    lines = content.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def repeat_line(content: bytes, rng: random.Random) -> bytes:
    """A line twice."""
    lines = content.split(b"\n")
    place = rng.randrange(len(lines))
    return b"\n".join([*lines[:place], lines[place], *lines[place:]])


def drop_line(content: bytes, rng: random.Random) -> bytes:
    """A line less."""
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def other_number(content: bytes, rng: random.Random) -> bytes:
    """A number becomes another, or none."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?", content))
    if not found:
        return flip(content, rng)
    match = rng.choice(found)
    return content[: match.start()] + rng.choice(NUMBERS).encode() + content[match.end() :]


def other_letters(content: bytes, rng: random.Random) -> bytes:
    """Bytes that are no UTF-8, or letters beyond ASCII."""
    place = rng.randrange(len(content) + 1)
    added = rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", "É".encode(), "\U0001f600".encode(), b'"', b","])
    return content[:place] + added + content[place:]


BINARY: tuple[Change, ...] = (flip, flip, flip, truncate, duplicate, insert, blank, empty)
TEXT: tuple[Change, ...] = (
    *(flip, flip, truncate, duplicate, insert, insert, insert, empty),
    *(swap_lines, repeat_line, drop_line, other_number, other_number, other_number, other_letters),
)


def change_bytes(
    content: bytes, changes: tuple[Change, ...], foreign: bytes, rng: random.Random
) -> tuple[str, bytes]:
    """One of `changes`, or now and then the content of another file; its name and the result."""
    if rng.random() < 0.04:
        return "another file's content", foreign
    change = rng.choice(changes)
    return change.__name__.replace("_", " "), change(content, rng)


def change_value(value: Any, rng: random.Random) -> tuple[str, Any]:
    """A copy of nested dictionaries and lists with one place changed; what was done, and the copy."""
    changed = copy.deepcopy(value)
    places = list(_places(changed))
    container, key, name = rng.choice(places)
    old = container[key]
    kind = rng.random()
    if kind < 0.3:
        del container[key]
        return f"without {name}", changed
    if isinstance(old, int | float) and not isinstance(old, bool) and kind < 0.85:
        container[key] = rng.choice(NUMBER_VALUES)
    elif isinstance(container, list) and kind < 0.5:
        container.insert(key, copy.deepcopy(old))
        return f"{name} twice", changed
    elif isinstance(old, str) and kind < 0.6:
        place = rng.randrange(len(old) + 1)
        container[key] = old[:place] + rng.choice(SEPARATORS) + old[place:]
    else:
        container[key] = copy.deepcopy(rng.choice(OTHER_VALUES + NUMBER_VALUES))
    return f"{name}: {str(container[key])[:40]!r}", changed


def _places(value: Any, name: str = "") -> Any:
    """Every place in nested containers: the container, the key and a dotted name."""
    pairs: Any = []
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    for key, inner in pairs:
        label = f"{name}.{key}" if name else str(key)
        yield value, key, label
        yield from _places(inner, label)


def _near(size: int, rng: random.Random) -> int:
    """A place in a file; one time in three within the first 100 bytes, where headers are."""
    return rng.randrange(min(size, 100)) if rng.random() < 0.34 else rng.randrange(size)
