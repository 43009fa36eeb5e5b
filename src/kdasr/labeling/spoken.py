"""Figures and signs of a label written out as they are spoken, for pieces that spell words alone.

Whisper writes `Mr. Hale paid $5 in 1907.`, transcripts have `MISTER HALE PAID FIVE DOLLARS IN NINETEEN OH
SEVEN`. num2words says numbers in the languages that it knows; abbreviations and signs are written out in
English only. What is not written out stays: the filter of characters that pieces cannot spell counts it.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

_ENGLISH = {
    "mr": "mister", "mrs": "missus", "ms": "miss", "dr": "doctor", "st": "saint", "prof": "professor",
    "capt": "captain", "col": "colonel", "gen": "general", "lieut": "lieutenant", "lt": "lieutenant",
    "sgt": "sergeant", "rev": "reverend", "hon": "honorable", "jr": "junior", "esq": "esquire",
}  # fmt: skip
_SIGNS = {"%": " percent", "&": " and ", "+": " plus ", "=": " equals ", "@": " at "}
_CURRENCIES = {"$": ("dollar", "dollars"), "£": ("pound", "pounds"), "€": ("euro", "euros")}
_BROKEN = frozenset({"am"})
"""Languages that num2words 0.5 knows and cannot say: Amharic fails from thousands on, and hangs at more."""
_MOST_DIGITS = 18
"""Of a number that is said as one; more are said digit by digit."""

_ABBREVIATION = re.compile(rf"\b({'|'.join(_ENGLISH)})\.(?=\s|$)", re.IGNORECASE)
_MONEY = re.compile(r"([$£€])\s?(\d[\d,]*)(?:\.(\d+))?(?:\s(thousand|million|billion|trillion)\b)?")
_ORDINAL = re.compile(r"\b(\d[\d,]*)(?:st|nd|rd|th)\b", re.IGNORECASE)
_DECADE = re.compile(r"\b(\d{2}|1[1-9]\d0|20\d0)['\u2019]?s\b")
_CLOCK = re.compile(r"\b(\d{1,2}):([0-5]\d)\b")
_YEAR = re.compile(r"(?<![\d.,$£€])(1[1-9]\d\d|20\d\d)(?![\d]|[.,]\d)")
_NUMBER = re.compile(r"(?<![^\W\d_])\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?")
_POINT = frozenset({"ar", "bn", "cy", "en", "fa", "he", "ja", "kn", "ko", "te", "th", "zh"})
"""Languages that write a point before decimals. The others write a comma, and between thousands a point or a
space that does not break: `1.907,5`."""
_WITHOUT_SPACES = frozenset({"ja", "km", "lo", "my", "th", "yue", "zh"})
_GROUPED = re.compile(r"\d{1,3}(?:[.\u00a0\u202f]\d{3})+(?:,\d+)?(?!\d)")
_NUMBER_WITH_COMMA = re.compile(rf"{_GROUPED.pattern}|\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?!\d)|\d+(?:[.,]\d+)?")


def speaks(language: str | None) -> bool:
    """Whether numbers of a language can be written out here."""
    return language is not None and _spell(language, 1) is not None


def spoken(text: str, language: str | None) -> str:
    """A text with its numbers in words; as it is where the language is not known."""
    if not speaks(language):
        return text
    assert language is not None
    if _base(language) == "en":
        text = _english(text)
    pattern = _NUMBER if _base(language) in _POINT else _NUMBER_WITH_COMMA
    space = "" if _base(language) in _WITHOUT_SPACES else " "
    return pattern.sub(lambda found: f"{space}{_number(found[0], language)}{space}", text)


def _english(text: str) -> str:
    text = _ABBREVIATION.sub(lambda found: _ENGLISH[found[1].lower()], text)
    text = _MONEY.sub(_money, text)
    text = _ORDINAL.sub(lambda found: f" {_say('en', _whole(found[1]), to='ordinal')} ", text)
    text = _DECADE.sub(_decade, text)
    text = _CLOCK.sub(_clock, text)
    text = _YEAR.sub(lambda found: f" {_say('en', int(found[1]), to='year')} ", text)
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    return text


def _money(found: re.Match[str]) -> str:
    one, many = _CURRENCIES[found[1]]
    amount, fraction, scale = _whole(found[2]), found[3], found[4]
    if scale or (fraction and len(fraction) != 2):
        number = _number(f"{amount}.{fraction}" if fraction else str(amount), "en")
        return f" {number} {scale} {many} " if scale else f" {number} {many} "
    said = f" {_say('en', amount)} {one if amount == 1 else many} "
    return f"{said}and {_say('en', int(fraction))} cents " if fraction and int(fraction) else said


def _decade(found: re.Match[str]) -> str:
    year = _say("en", int(found[1]), to="year" if len(found[1]) > 2 else "cardinal")
    return f" {year[:-1]}ies " if year.endswith("y") else f" {year}s "


def _clock(found: re.Match[str]) -> str:
    hour, minutes = int(found[1]), int(found[2])
    past = "o'clock" if minutes == 0 else f"{'oh ' if minutes < 10 else ''}{_say('en', minutes)}"
    return f" {_say('en', hour)} {past} "


def _number(text: str, language: str) -> str:
    if _base(language) not in _POINT and _GROUPED.fullmatch(text):
        text = re.sub(r"[^\d,]", "", text)
    elif re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    digits = text.replace(",", ".")
    if len(digits) > _MOST_DIGITS:
        return " ".join(_say(language, int(digit)) for digit in digits if digit.isdigit())
    return _say(language, float(digits) if "." in digits else int(digits))


def _say(language: str, number: float, to: str = "cardinal") -> str:
    """A number in words; in figures where num2words has none for it."""
    said = _spell(language, number, to)
    return str(number) if said is None else said.replace("-", " ").replace(",", "")


def _whole(text: str) -> int:
    return int(text.replace(",", ""))


def _base(language: str) -> str:
    return re.split(r"[-_]", language.lower())[0]


@cache
def _spell(language: str, number: float, to: str = "cardinal") -> str | None:
    """None: num2words is not installed, or does not know the language, or no number so large."""
    convert = _num2words()
    if convert is None or _base(language) in _BROKEN:
        return None
    try:
        return str(convert(number, lang=_base(language), to=to))
    except (NotImplementedError, ArithmeticError, LookupError, TypeError, ValueError):
        return None


@cache
def _num2words() -> Callable[..., Any] | None:
    try:
        from num2words import num2words
    except ImportError:
        return None
    return num2words
