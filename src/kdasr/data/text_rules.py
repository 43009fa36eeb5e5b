"""How text is written before it is cut into pieces: the setting `text.normalize`.

A rule is a function from text to text, known by a name. It is applied by the tokenizer, and so to all text
that is trained on, scored, searched for or counted (see `kdasr.data.tokenizer`); cuts keep theirs. A rule
must treat a word the same alone and among others: the words of an alignment are written one by one.

A further rule is a function here, or anywhere else that is imported, under `@register_rule(name)`.
"""

import unicodedata
from collections.abc import Callable

from kdasr.common.errors import UserError
from kdasr.common.registry import Registry

Rule = Callable[[str], str]

NONE = "none"
"""The rule that leaves text as it is."""
APOSTROPHES = "'\u2018\u2019\u02bc\uff07"
"""What stands for one within a word: the typewriter's, both quotes, the letter, the full-width one."""
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
    signs that are spoken (`%`, `&`) go: write them out before.
    """
    kept = lower(unicodedata.normalize("NFKC", text))
    kept = unicodedata.normalize("NFKC", kept)
    last = len(kept) - 1
    spelled = [
        "'" if char in APOSTROPHES and 0 < place < last and _joins(kept[place - 1], kept[place + 1])
        else " " if unicodedata.category(char)[0] in "PS" or char in APOSTROPHES
        else char
        for place, char in enumerate(kept)
    ]  # fmt: skip
    return " ".join("".join(spelled).split())


@register_rule("upper-words")
def upper_words(text: str) -> str:
    """The rule `words`, in capitals: as LibriSpeech's transcripts are."""
    return upper(words(text))


def _joins(before: str, after: str) -> bool:
    """Whether an apostrophe between two characters is within a word: letters, digits and their marks."""
    beside = (before, after)
    return all(unicodedata.category(char)[0] in "LNM" and char not in APOSTROPHES for char in beside)
