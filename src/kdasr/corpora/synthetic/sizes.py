"""The sizes of the corpus: how many people say how much, in which words and how regularly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdasr.common.errors import UserError
from kdasr.corpora.synthetic.acoustics import CLEAN, OTHER, Surroundings
from kdasr.corpora.synthetic.bursts import Bursts
from kdasr.corpora.synthetic.company import COMPANY
from kdasr.corpora.synthetic.lookahead import RESULTS
from kdasr.corpora.synthetic.vocabulary import DEMO, TINY, Vocabulary, large_vocabulary
from kdasr.corpora.synthetic.voices import VoiceRange

LARGE = large_vocabulary()

REGULAR = VoiceRange(rate=(110, 150), pitch=(38, 62), pitch_range=(35, 65), tract_percent=(96, 104))
WIDE = VoiceRange(rate=(125, 180), pitch=(30, 70), pitch_range=(25, 80), tract_percent=(92, 108))


@dataclass(frozen=True)
class PartSize:
    """Counts of one part."""

    speakers: int
    chapters: int
    """Per speaker."""
    utterances: int
    """Per chapter."""

    @property
    def num_utterances(self) -> int:
        """Of the whole part."""
        return self.speakers * self.chapters * self.utterances


@dataclass(frozen=True)
class Size:
    """Everything that differs between sizes."""

    name: str
    vocabulary: Vocabulary
    voices: VoiceRange
    parts: dict[str, PartSize]
    lm_sentences: int
    clean: Surroundings = CLEAN
    """Of the training and the clean parts."""
    other: Surroundings = OTHER
    """Of the `other` parts."""
    version: int = 2
    """Changes whenever this size and a seed give other bytes."""

    def only(self, parts: Sequence[str], speakers: int | None) -> "Size":
        """The same speech, but these parts only, with so many speakers each (None: as many as they have).

        Raises:
            UserError: a part that the size does not have.
        """
        unknown = [part for part in parts if part not in self.parts]
        if unknown:
            known = ", ".join(self.parts)
            raise UserError(f"size '{self.name}' has no part {', '.join(unknown)}; there are: {known}")
        chosen = {
            part: replace(counts, speakers=speakers or counts.speakers)
            for part, counts in self.parts.items()
            if part in parts
        }
        count = f" of {speakers} speakers" if speakers else ""
        return replace(self, name=f"{self.name}: {' '.join(chosen)}{count}", parts=chosen)


# Hard enough that a small recognizer errs, and that hearing what follows helps it. Babble is in the training
# parts too: a model that never heard any answers it, and what it answers is no first word.
HARD_CLEAN = Surroundings(
    snr_db=(5.0, 20.0),
    drr_db=(4.0, 16.0),
    room_share=0.7,
    babble_share=0.2,
    bursts=Bursts(word_share=0.8, seconds=(0.1, 0.3), snr_db=(-20.0, -10.0)),
    # The first chunk of a stream hears no word: a model that shows one there has guessed it.
    lead_seconds=(0.4, 0.9),
)
HARD_OTHER = replace(HARD_CLEAN, room_share=1.0, babble_share=0.4)

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
        Size(
            "results",
            RESULTS,
            REGULAR,
            {
                "train-clean-100": PartSize(100, 1, 13),
                "train-clean-360": PartSize(160, 1, 14),
                "dev-clean": PartSize(16, 1, 8),
                "dev-other": PartSize(16, 1, 8),
                "test-clean": PartSize(40, 1, 15),
                "test-other": PartSize(40, 1, 15),
            },
            lm_sentences=20000,
            clean=HARD_CLEAN,
            other=HARD_OTHER,
            version=3,
        ),
        Size(
            "lpm",
            COMPANY,
            REGULAR,
            {
                "train-clean-100": PartSize(60, 1, 13),
                "train-clean-360": PartSize(80, 1, 14),
                "train-other-500": PartSize(80, 1, 14),
                "dev-clean": PartSize(16, 1, 8),
                "dev-other": PartSize(16, 1, 8),
                "test-clean": PartSize(40, 1, 15),
                "test-other": PartSize(40, 1, 15),
            },
            lm_sentences=60000,
        ),
        Size(
            "base",
            LARGE,
            WIDE,
            {
                "train-clean-100": PartSize(120, 2, 27),
                "train-clean-360": PartSize(160, 2, 27),
                "dev-clean": PartSize(16, 1, 10),
                "dev-other": PartSize(16, 1, 10),
                "test-clean": PartSize(30, 1, 10),
                "test-other": PartSize(30, 1, 10),
            },
            lm_sentences=200000,
        ),
        Size(
            "large",
            LARGE,
            WIDE,
            {
                "train-clean-100": PartSize(300, 3, 32),
                "train-clean-360": PartSize(500, 3, 32),
                "dev-clean": PartSize(40, 1, 16),
                "dev-other": PartSize(40, 1, 16),
                "test-clean": PartSize(60, 1, 20),
                "test-other": PartSize(60, 1, 20),
            },
            lm_sentences=500000,
        ),
    )
}
