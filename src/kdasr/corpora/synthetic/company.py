"""A vocabulary of which text teaches more than little transcribed speech does, as of any real language.

Some 400 words, most of them rare, and each keeps company with few others: a class offers dozens of words, of
which only some may follow the word before. A recognizer of an hour of speech misspells them; a language model
knows which words there are and which of them go together.
"""

from kdasr.corpora.synthetic.inflection import base, past, plural
from kdasr.corpora.synthetic.vocabulary import DEMO, Vocabulary
from kdasr.corpora.synthetic.words import MODIFIERS, NOUNS, VERBS


def _company_vocabulary() -> Vocabulary:
    classes = {name: DEMO.classes[name] for name in ("number", "where", "when", "some", "how")} | {
        "people": tuple(map(plural, NOUNS["person"].split()[:80])),
        "did": tuple(map(past, VERBS["handle"].split()[:80])),
        "things": tuple(map(plural, NOUNS["thing"].split()[:120])),
        "place": tuple(map(base, NOUNS["place"].split()[:60])),
        "kind": tuple(MODIFIERS["adj_person"].split()[:48]),
        "looking": tuple(MODIFIERS["adj_thing"].split()[:48]),
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
