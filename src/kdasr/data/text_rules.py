"""How text is written before it is cut into pieces: the setting `text.normalize`.

A rule is a function from text to text, known by a name. It is applied by the tokenizer, and so to all text
that is trained on, scored, searched for or counted (see `kdasr.data.tokenizer`); cuts keep theirs. A rule
must treat a word the same alone and among others: the words of an alignment are written one by one.

A further rule is a function here, or anywhere else that is imported, under `@register_rule(name)`.
"""

import re
import unicodedata
from collections.abc import Callable

from kdasr.common.errors import UserError
from kdasr.common.registry import Registry

Rule = Callable[[str], str]

NONE = "none"
"""The rule that leaves text as it is."""
APOSTROPHES = "'\u2018\u2019\u02bc\uff07"
"""What stands for one within a word: the typewriter's, both quotes, the letter, the full-width one."""
_JOINERS = "\u200c\u200d"
"""Within words of Persian and of Indian languages they are spelling; at an edge they are left of an emoji."""
_UNSEEN = re.compile(
    "[\u00ad\u061c\u200e\u200f\u202a-\u202e\u2060-\u206f\u20e3\ufe00-\ufe0f"
    "\U000e0001-\U000e007f\U000e0100-\U000e01ef]"
)
"""What only says how others are shown: soft hyphens, marks of the direction, the look of an emoji."""
_RULES: Registry[Rule] = Registry("rule")


def register_rule(name: str) -> Callable[[Rule], Rule]:
    """Make a rule known by its name; a decorator.

    Raises:
        ValueError: another one has that name.
    """
    return _RULES.register(name)


def known_rules() -> list[str]:
    """Their names."""
    return list(_RULES)


def check_rule(name: str, where: str) -> None:
    """
    Raises:
        UserError: there is no such rule; `where` says who asks for it.
    """
    if name not in _RULES:
        raise UserError(f"{where}: no rule '{name}' to normalize text by; known: {', '.join(_RULES)}")


def rule_named(name: str, where: str = "text.normalize") -> Rule:
    """A rule by its name; see `check_rule`."""
    check_rule(name, where)
    return _RULES[name]


@register_rule(NONE)
def as_it_is(text: str) -> str:
    """The text itself."""
    return text


@register_rule("upper")
def upper(text: str) -> str:
    """Capitals, by the rules of Unicode: `Straße` becomes `STRASSE`."""
    return unicodedata.normalize("NFC", text.upper())


@register_rule("lower")
def lower(text: str) -> str:
    """Small letters, by the rules of Unicode, which are not those of Turkish: `I` becomes `i`."""
    # The capital sigma is the only letter whose small form depends on its neighbors.
    return unicodedata.normalize("NFC", text.replace("\u03a3", "\u03c3").lower())


@register_rule("words")
def words(text: str) -> str:
    """NFKC of Unicode, in small letters, without punctuation and symbols but for apostrophes within words.

    What goes leaves a space, so that `well-known` becomes `well known`. Numbers stay as they are written, and
    signs that are spoken (`%`, `&`) go: write them out before. What cannot be seen goes without a space: soft
    hyphens, marks of the direction, and what chooses the look of an emoji.
    """
    kept = lower(unicodedata.normalize("NFKC", _UNSEEN.sub("", text)))
    kept = unicodedata.normalize("NFKC", kept)
    last = len(kept) - 1
    spelled = [
        "'" if char in APOSTROPHES and 0 < place < last and _joins(kept[place - 1], kept[place + 1])
        else " " if unicodedata.category(char)[0] in "PS" or char in APOSTROPHES
        else char
        for place, char in enumerate(kept)
    ]  # fmt: skip
    found = (word.strip(_JOINERS) for word in "".join(spelled).split())
    return " ".join(word for word in found if word)


@register_rule("upper-words")
def upper_words(text: str) -> str:
    """The rule `words`, in capitals: as LibriSpeech's transcripts are."""
    return upper(words(text))


def _joins(before: str, after: str) -> bool:
    """Whether an apostrophe between two characters is within a word: letters, digits and their marks."""
    beside = (before, after)
    return all(unicodedata.category(char)[0] in "LNM" and char not in APOSTROPHES for char in beside)
