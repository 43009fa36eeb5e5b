"""What words are in writing that puts no spaces between them: characters, and about how many make a word.

Chinese and Japanese text has about two characters per word, Thai, Lao, Khmer and Burmese about four, with
marks of vowels and tones. That is no word count; it puts the speed of such speech (Pellegrino et al., *A
cross-language perspective on speech information rate*, Language 2011) within the bounds that words of other
languages have. Korean has spaces.
"""

import re
import unicodedata
from collections.abc import Iterable

from kdasr.data.text_normalization import split_words

_KANA = "\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_IDEOGRAPHS = f"{_KANA}\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_LETTERS = "\u0e01-\u0e4e\u0e81-\u0ece\u1000-\u104f\u1780-\u17d3"
_UNIT = re.compile(f"[{_IDEOGRAPHS}{_LETTERS}]|[^{_IDEOGRAPHS}{_LETTERS}]+")
_IDEOGRAPH, _LETTER = re.compile(f"[{_IDEOGRAPHS}]"), re.compile(f"[{_LETTERS}]")


def units(text: str) -> list[str]:
    """What is compared between two texts: each word, and each character of writing without spaces."""
    return [unit for word in split_words(text) for unit in _UNIT.findall(word)]


def spoken_words(text: str) -> float:
    """How many words a text has, about where it has no spaces."""
    return sum(_share(unit) for unit in units(text))


def space_between(before: str, after: str) -> str:
    """What stands between two texts that follow each other: nothing in writing without spaces. Punctuation
    at their edges does not count."""
    edges = (_first_letter(reversed(before)), _first_letter(after))
    return "" if all(_IDEOGRAPH.fullmatch(char) or _LETTER.fullmatch(char) for char in edges) else " "


def _first_letter(chars: Iterable[str]) -> str:
    """The first of some characters that is no punctuation, symbol or space; empty where all are."""
    return next((char for char in chars if unicodedata.category(char)[0] not in "PSZ"), "")


def _share(unit: str) -> float:
    """Of a word that a unit is."""
    if _IDEOGRAPH.fullmatch(unit):
        return 0.5
    return 0.25 if _LETTER.fullmatch(unit) else 1.0
