"""Word classes and sentence templates of each vocabulary."""

from dataclasses import dataclass

from kdasr.corpora.synthetic.homophones import homophone_sets
from kdasr.corpora.synthetic.inflection import base, past, plural, present_participle, third_person
from kdasr.corpora.synthetic.rules import RULES
from kdasr.corpora.synthetic.words import CLOSED, MODIFIERS, NOUNS, UNCOUNTABLE, VERBS


@dataclass(frozen=True)
class Vocabulary:
    """Words by class, most frequent first, and weighted templates by rule."""

    classes: dict[str, tuple[str, ...]]
    rules: dict[str, tuple[tuple[float, str], ...]]
    """Rule -> (weight, template); `{name}` stands for a word of a class or a template of a rule. The rule
    `sentence` is where every sentence begins."""
    company: int | None = None
    """How many words of a class may come after a given word of another: the fewer, the more a language model
    of the text knows about a word that is hard to hear. None: all."""

    def templates(self) -> list[str]:
        """All templates of all rules."""
        return [template for options in self.rules.values() for _, template in options]


def large_vocabulary() -> Vocabulary:
    """Some 2,000 words with their inflections, and sets of homophones that only the sentence resolves."""
    classes = {name: tuple(text.split()) for name, text in (CLOSED | UNCOUNTABLE | MODIFIERS).items()}
    for name, text in NOUNS.items():
        nouns = text.split()
        classes[name] = tuple(map(base, nouns))
        classes[f"{name}:s"] = tuple(map(plural, nouns))
    for name, text in VERBS.items():
        verbs = text.split()
        for form, inflect in (("", base), (":s", third_person), (":ed", past), (":ing", present_participle)):
            classes[name + form] = tuple(map(inflect, verbs))
    members = [carriers for members in homophone_sets() for carriers in members.values()]
    homophone = tuple((1 / len(carriers), carrier) for carriers in members for carrier in carriers)
    return Vocabulary(classes, RULES | {"homophone": homophone})


TINY = Vocabulary(
    classes={
        "person": ("teacher", "sailor", "farmer", "children"),
        "did": ("painted", "carried", "noticed"),
        "number": ("seven", "two", "five"),
        "colour": ("yellow", "purple", "green"),
        "things": ("baskets", "windows", "letters", "horses"),
        "place": ("garden", "river"),
    },
    rules={
        "sentence": (
            (3.0, "the {person} {did} {number} {colour} {things}"),
            (2.0, "the {person} {did} {number} {things} near the {place}"),
            (2.0, "{number} {colour} {things} near the {place}"),
        )
    },
)

DEMO = Vocabulary(
    classes={
        "people": (
            "teachers",
            "captains",
            "farmers",
            "children",
            "doctors",
            "sailors",
            "grandmothers",
            "musicians",
            "policemen",
            "students",
        ),
        "did": (
            "carried",
            "noticed",
            "painted",
            "delivered",
            "borrowed",
            "repaired",
            "discovered",
            "followed",
            "forgot",
        ),
        "number": ("two", "seven", "twenty", "five", "eleven", "hundred", "nine"),
        "colour": ("yellow", "green", "purple", "orange", "silver", "black", "white"),
        "things": (
            "baskets",
            "letters",
            "windows",
            "horses",
            "umbrellas",
            "pictures",
            "blankets",
            "bottles",
            "chairs",
            "engines",
            "flowers",
            "guitars",
        ),
        "place": ("garden", "village", "river", "station", "mountain", "kitchen", "hospital", "island"),
        "where": ("near", "behind", "across", "inside"),
        "when": ("yesterday", "sometimes", "finally", "tonight", "already"),
        "some": ("our", "many", "some", "their"),
        "how": ("quickly", "carefully", "together", "quietly"),
    },
    rules={
        # Sentences begin in many ways, so that the first word says something about latency.
        "sentence": (
            (4.0, "{some} {people} {did} {number} {colour} {things}"),
            (3.0, "{people} {did} {number} {things} {where} the {place}"),
            (3.0, "{when} {some} {people} {did} {colour} {things} {where} the {place}"),
            (3.0, "{number} {people} {did} {colour} {things}"),
            (2.0, "{people} and {people} {did} {number} {things}"),
            (2.0, "{number} {colour} {things} {where} the {place}"),
            (2.0, "{some} {people} {how} {did} the {things} with {number} {things}"),
            (2.0, "{when} {number} {people} {how} {did} {colour} {things}"),
            (2.0, "{colour} {things} and {colour} {things}"),
            (1.0, "{people} {did} everything {how}"),
            (1.0, "{how} the {people} {did} everything {where} the {place}"),
            (1.0, "{number} {colour} {things}"),
        )
    },
)
