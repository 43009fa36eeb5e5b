"""Speakers: an accent, a variant, and a pitch, rate, liveliness and vocal tract of their own."""

from dataclasses import dataclass

import numpy as np

from kdasr.corpora.synthetic.espeak import Voice

SEEN_ACCENTS = ("en-US", "en", "en-GB-x-rp", "en-US-nyc", "en-GB-x-gbclan")
"""Accents of the training and the clean parts."""

UNSEEN_ACCENTS = ("en-GB-scotland", "en-029", "en-GB-x-gbcwmd")
"""Accents of the `other` parts."""

FEMALE_VARIANTS = ("f1", "f2", "f3", "f4", "linda", "steph", "Annie", "belinda", "Andrea", "aunty")
MALE_VARIANTS = ("m1", "m3", "m4", "m6", "m7", "m8", "max", "rob", "robert", "Michael", "pablo", "Mike")
"""Voices that speak clearly: no whisper, creak, robot or child."""


@dataclass(frozen=True)
class VoiceRange:
    """Limits (low, high) between which speakers are drawn."""

    rate: tuple[int, int]
    """Words per minute."""
    pitch: tuple[int, int]
    """espeak-ng's scale around the variant's own pitch."""
    pitch_range: tuple[int, int]
    """espeak-ng's scale."""
    tract_percent: tuple[int, int]
    """Vocal tract length, 100: the variant's own. Shorter tracts move all formants up."""


@dataclass(frozen=True)
class Speaker:
    """One reader of the corpus."""

    id: str
    part: str
    accent: str
    variant: str
    rate: int
    pitch: int
    pitch_range: int
    tract_percent: int

    @property
    def sex(self) -> str:
        """F or M, as in SPEAKERS.TXT."""
        return "F" if self.variant in FEMALE_VARIANTS else "M"

    @property
    def voice(self) -> Voice:
        """The speaker's voice, before the small changes from one utterance to the next."""
        return Voice(f"gmw/{self.accent}+{self.variant}", self.rate, self.pitch, self.pitch_range)

    @property
    def name(self) -> str:
        """A description in place of a reader's name."""
        return (
            f"{self.accent}+{self.variant} rate {self.rate} pitch {self.pitch}"
            f" range {self.pitch_range} tract {self.tract_percent}"
        )


def voice_pairs(accents: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, str]]:
    """Every (accent, variant) in a random order in which the sexes take turns."""

    def shuffled(variants: tuple[str, ...]) -> list[tuple[str, str]]:
        pairs = [(accent, variant) for variant in variants for accent in accents]
        return [pairs[index] for index in rng.permutation(len(pairs))]

    female, male = shuffled(FEMALE_VARIANTS), shuffled(MALE_VARIANTS)
    mixed = [pair for both in zip(female, male, strict=False) for pair in both]
    shortest = min(len(female), len(male))
    return mixed + female[shortest:] + male[shortest:]


def draw_speaker(
    identity: tuple[str, str], pair: tuple[str, str], limits: VoiceRange, rng: np.random.Generator
) -> Speaker:
    """A speaker with `identity` (id, part) and `pair` (accent, variant), the rest drawn within `limits`."""

    def between(bounds: tuple[int, int]) -> int:
        return int(rng.integers(bounds[0], bounds[1] + 1))

    return Speaker(
        *identity,
        *pair,
        rate=between(limits.rate),
        pitch=between(limits.pitch),
        pitch_range=between(limits.pitch_range),
        tract_percent=between(limits.tract_percent),
    )
