"""The sizes of the corpus: how many people say how much, in which words and how regularly."""

from dataclasses import dataclass

from kdasr.data.synthetic.vocabulary import DEMO, TINY, Vocabulary
from kdasr.data.synthetic.voices import VoiceRange

REGULAR = VoiceRange(rate=(115, 145), pitch=(38, 62), pitch_range=(35, 65), tract_percent=(96, 104))


@dataclass(frozen=True)
class PartSize:
    """Counts of one part."""

    speakers: int
    chapters: int
    """Per speaker."""
    utterances: int
    """Per chapter."""


@dataclass(frozen=True)
class Size:
    """Everything that differs between sizes."""

    name: str
    vocabulary: Vocabulary
    voices: VoiceRange
    parts: dict[str, PartSize]
    lm_sentences: int


SIZES = {
    size.name: size
    for size in (
        Size(
            "tiny",
            TINY,
            REGULAR,
            {
                "train-clean-100": PartSize(8, 1, 7),
                "train-clean-360": PartSize(4, 1, 5),
                "dev-clean": PartSize(2, 1, 3),
                "dev-other": PartSize(2, 1, 3),
                "test-clean": PartSize(2, 1, 3),
                "test-other": PartSize(2, 1, 3),
            },
            lm_sentences=300,
        ),
        Size(
            "demo",
            DEMO,
            REGULAR,
            {
                "train-clean-100": PartSize(50, 1, 10),
                "train-clean-360": PartSize(63, 1, 10),
                "dev-clean": PartSize(10, 1, 5),
                "dev-other": PartSize(10, 1, 6),
                "test-clean": PartSize(16, 1, 6),
                "test-other": PartSize(16, 1, 7),
            },
            lm_sentences=20000,
        ),
    )
}
