"""Regular English inflection, with the exceptions marked in the word lists."""

from itertools import pairwise

VOWELS = "aeiou"


def plural(noun: str) -> str:
    """`book` -> `books`; `child>children` -> `children`."""
    if ">" in noun:
        return noun.split(">")[1]
    return third_person(noun)


def base(word: str) -> str:
    """A word without the marks of its irregular forms."""
    return word.split(">")[0].removesuffix("*")


def third_person(verb: str) -> str:
    """`carry` -> `carries`."""
    stem = base(verb)
    if stem.endswith("y") and stem[-2] not in VOWELS:
        return stem[:-1] + "ies"
    if stem.endswith(("s", "x", "z", "ch", "sh")):
        return stem + "es"
    return stem + "s"


def past(verb: str) -> str:
    """`carry` -> `carried`; `stop*` -> `stopped`; `take>took` -> `took`."""
    if ">" in verb:
        return verb.split(">")[1]
    stem = base(verb)
    if stem.endswith("e"):
        return stem + "d"
    if stem.endswith("y") and stem[-2] not in VOWELS:
        return stem[:-1] + "ied"
    return _doubled(verb) + "ed"


def present_participle(verb: str) -> str:
    """`carry` -> `carrying`; `stop*` -> `stopping`; `take>took` -> `taking`."""
    stem = base(verb)
    if stem.endswith("ie"):
        return stem[:-2] + "ying"
    if stem.endswith("e") and not stem.endswith(("ee", "oe", "ye")):
        return stem[:-1] + "ing"
    return _doubled(verb) + "ing"


def with_article(text: str) -> str:
    """`a` before a vowel sound becomes `an`."""
    words = text.split(" ")
    for index, (word, following) in enumerate(pairwise(words)):
        if word == "a" and _starts_with_vowel(following):
            words[index] = "an"
    return " ".join(words)


def _doubled(verb: str) -> str:
    stem = base(verb)
    return stem + stem[-1] if verb.endswith("*") else stem


def _starts_with_vowel(word: str) -> bool:
    if word.startswith(("hour", "honest", "honour", "heir")):
        return True
    return word[0] in VOWELS and not word.startswith(("uni", "use", "usu", "one", "eu"))
