"""A vocabulary whose homophones only the words after them tell apart.

Each pair is a noun and a modifier that sound the same in every accent of the training parts. Whatever can
stand before the one can stand before the other, equally often; what follows differs: after the noun a verb or
a preposition, after the modifier a noun. A recognizer that shows a word at once can only guess.
"""

from kdasr.corpora.synthetic.vocabulary import DEMO, Vocabulary

PEOPLE_PAIRS = """
    night knight / dear deer / bored board / lone loan / pale pail / great grate / male mail / bolder boulder
    fair fare / sweet suite
"""
"""Modifier and noun; a word for people follows the modifier."""

THING_PAIRS = """
    bare bear / plain plane / banned band / missed mist / whole hole / main mane / tied tide / towed toad
    guessed guest / minor miner
"""
"""Modifier and noun; a word for things follows the modifier."""

HOMOPHONE_WEIGHT = 0.5
"""Of a template here, beside the weights of `DEMO`: three sentences in ten have a word of a pair in them."""


def homophone_pairs() -> list[tuple[str, str]]:
    """Each pair as (modifier, noun)."""
    return [pair for text in (PEOPLE_PAIRS, THING_PAIRS) for pair in _pairs(text)]


def _pairs(text: str) -> list[tuple[str, str]]:
    words = text.replace("/", " ").split()
    return list(zip(words[::2], words[1::2], strict=True))


def _either(template: str) -> tuple[tuple[float, str], ...]:
    """A template for both kinds of pairs; `*` stands for the noun, or for the modifier and its noun."""
    return tuple(
        (HOMOPHONE_WEIGHT, template.replace("*", filler))
        for filler in ("{noun_p}", "{modifier_p} {people}", "{noun_t}", "{modifier_t} {things}")
    )


def _results_vocabulary() -> Vocabulary:
    people, things = _pairs(PEOPLE_PAIRS), _pairs(THING_PAIRS)
    classes = DEMO.classes | {
        "modifier_p": tuple(modifier for modifier, _ in people),
        "noun_p": tuple(noun for _, noun in people),
        "modifier_t": tuple(modifier for modifier, _ in things),
        "noun_t": tuple(noun for _, noun in things),
        "acted": ("vanished", "waited", "appeared", "returned", "changed"),
        "said": ("believed", "promised", "announced", "remembered"),
    }
    sentence = (
        *DEMO.rules["sentence"],
        *_either("the * {acted} {where} the {place}"),
        *_either("{when} the * {acted} {where} the {place}"),
        *_either("{people} {did} the * {where} the {place}"),
        *_either("{some} {people} {how} {did} the * {where} the {place}"),
        *_either("{number} {people} {said} the * {acted}"),
        *_either("{people} {said} the * {acted} {where} the {place}"),
    )
    return Vocabulary(classes, {"sentence": sentence})


RESULTS = _results_vocabulary()
