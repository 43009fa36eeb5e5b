"""A vocabulary whose words keep company with few others, so that a language model of the text knows much.

What local prior matching learns from is text. A class offers dozens of words, a few of which may follow the
word before: a recogniser that has not heard enough speech to know which confuses words that the text tells
apart.
"""

from kdasr.data.synthetic.inflection import base, past, plural
from kdasr.data.synthetic.vocabulary import DEMO, Vocabulary
from kdasr.data.synthetic.words import MODIFIERS, NOUNS, VERBS


def _company_vocabulary() -> Vocabulary:
    classes = {name: DEMO.classes[name] for name in ("number", "where", "when", "some", "how")} | {
        "people": tuple(map(plural, NOUNS["person"].split()[:36])),
        "did": tuple(map(past, VERBS["handle"].split()[:36])),
        "things": tuple(map(plural, NOUNS["thing"].split()[:48])),
        "place": tuple(map(base, NOUNS["place"].split()[:30])),
        "kind": tuple(MODIFIERS["adj_person"].split()[:24]),
        "looking": tuple(MODIFIERS["adj_thing"].split()[:24]),
    }
    sentence = (
        (3.0, "the {kind} {people} {did} {number} {things} {where} the {place}"),
        (3.0, "{people} {did} the {looking} {things} {where} the {place}"),
        (3.0, "{when} the {people} {did} {number} {looking} {things}"),
        (3.0, "{some} {people} {how} {did} the {looking} {things}"),
        (2.0, "{when} {some} {kind} {people} {did} the {things}"),
        (2.0, "{number} {kind} {people} {did} the {things} with {looking} {things}"),
        (2.0, "the {looking} {things} {where} the {place} and the {things}"),
        (2.0, "{how} the {people} and the {people} {did} {number} {things}"),
        (1.0, "{number} {looking} {things} {where} the {place}"),
        (1.0, "{kind} {people} {did} everything {where} the {place}"),
    )
    return Vocabulary(classes, {"sentence": sentence}, company=3)


COMPANY = _company_vocabulary()
