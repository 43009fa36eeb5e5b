"""Word classes and sentence templates of each vocabulary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Words by class, most frequent first, and templates with their weights."""

    classes: dict[str, tuple[str, ...]]
    templates: tuple[tuple[float, str], ...]
    """(weight, template); `{name}` stands for a word of that class, `[...|...]` for one alternative."""


TINY = Vocabulary(
    classes={
        "person": ("teacher", "sailor", "farmer", "children"),
        "did": ("painted", "carried", "noticed"),
        "number": ("seven", "two", "five"),
        "colour": ("yellow", "purple", "green"),
        "things": ("baskets", "windows", "letters", "horses"),
        "place": ("garden", "river"),
    },
    templates=(
        (3.0, "the {person} {did} {number} {colour} {things}"),
        (2.0, "the {person} {did} {number} {things} near the {place}"),
        (2.0, "{number} {colour} {things} near the {place}"),
    ),
)

DEMO = Vocabulary(
    classes={
        "person": (
            "teacher",
            "captain",
            "farmer",
            "children",
            "doctor",
            "sailor",
            "grandmother",
            "musicians",
            "policeman",
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
        "how": ("quickly", "carefully", "together", "quietly"),
    },
    templates=(
        (4.0, "the {person} {did} {number} {colour} {things}"),
        (4.0, "the {person} {did} {number} {things} {where} the {place}"),
        (3.0, "{when} the {person} {did} the {colour} {things} {where} the {place}"),
        (2.0, "the {person} and the {person} {did} {number} {things}"),
        (2.0, "{number} {colour} {things} {where} the {place}"),
        (2.0, "the {person} {how} {did} the {things} with {number} {things}"),
        (2.0, "{when} the {person} {how} {did} {colour} {things}"),
        (1.0, "the {colour} {things} and the {colour} {things}"),
        (1.0, "the {person} {did} everything {how}"),
    ),
)
