"""The utterances of a part joined into long streams, with pauses between them."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdasr.common.errors import UserError
from kdasr.corpora.base import place_by_fields, place_by_id
from kdasr.data.features import SAMPLE_RATE
from kdasr.recognition.audio import Samples
from kdasr.recognition.sources import JoinedSource, Piece

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

# Shapes: N samples at 16 kHz.

NOISES = ("quiet", "silence")
"""What a pause holds: quiet noise, or zeros."""
NO_NOISE = "none"
"""Stands for the noise of streams without pauses."""
QUIET_DB = -60.0
"""Level of quiet noise below full scale: white, Gaussian, RMS 0.001; a quiet room at a usual gain."""
LONGEST_GAP = 60.0
"""Seconds; more is a mistake."""
LONGEST_STREAM = 24 * 60.0
"""Minutes; more is a mistake."""


@dataclass(frozen=True)
class Pause:
    """What is between two utterances of a stream."""

    seconds: float = 0.0
    noise: str = NO_NOISE
    """One of `NOISES`; `NO_NOISE` without a pause."""

    def __post_init__(self) -> None:
        if not 0 <= self.seconds <= LONGEST_GAP:  # nan is not
            raise UserError(f"gap of {self.seconds:g} s: expected 0 to {LONGEST_GAP:g}")
        if self.noise not in (NOISES if self.seconds else (NO_NOISE,)):
            expected = ", ".join(NOISES) if self.seconds else NO_NOISE
            raise UserError(f"noise '{self.noise}' in gaps of {self.seconds:g} s: expected {expected}")

    def __str__(self) -> str:
        return f"{self.seconds:g} s of {self.noise}" if self.seconds else "no pause"

    @property
    def num_samples(self) -> int:
        """At 16 kHz."""
        return round(self.seconds * SAMPLE_RATE)

    def samples(self, seed: Sequence[int]) -> Samples:
        """The pause itself, (N,); the same seed gives the same noise."""
        if self.noise != "quiet":
            return np.zeros(self.num_samples, dtype=np.float32)
        generator = np.random.default_rng(list(seed))
        noise_N = generator.standard_normal(self.num_samples, dtype=np.float32)
        return noise_N * np.float32(10 ** (QUIET_DB / 20))


def parse_gaps(text: str) -> list[float]:
    """Read `0,0.3,1,3`: seconds, in ascending order, none twice.

    Raises:
        UserError: not numbers, or out of range; the message names the culprit.
    """
    gaps = []
    for word in text.replace(",", " ").split():
        try:
            seconds = float(word)
        except ValueError:
            raise UserError(f"--gaps {text}: '{word}' is not a number of seconds") from None
        if not 0 <= seconds <= LONGEST_GAP:
            raise UserError(f"--gaps {text}: {word}: expected 0 to {LONGEST_GAP:g} seconds")
        gaps.append(seconds)
    if not gaps:
        raise UserError("--gaps: name at least one pause, in seconds")
    return sorted(set(gaps))


def check_minutes(minutes: float) -> float:
    """The length of the longest stream.

    Raises:
        UserError: not above 0, or more than a day.
    """
    if not 0 < minutes <= LONGEST_STREAM:  # nan is not
        raise UserError(f"streams of {minutes:g} minutes: expected more than 0, at most {LONGEST_STREAM:g}")
    return minutes


def pauses(gaps: Sequence[float], noises: Sequence[str] = NOISES) -> list[Pause]:
    """Each gap with each noise; a gap of 0 once."""
    return [Pause(seconds, noise) for seconds in gaps for noise in (noises if seconds else (NO_NOISE,))]


def in_order(cuts: Sequence["MonoCut"]) -> list["MonoCut"]:
    """The cuts as they were spoken: those of a chapter, a recording or a speaker together and in their order.

    A chapter is told by `custom` fields of the cut, a recording by several cuts of it, a chapter also by an
    id (see `kdasr.corpora.base`), and a speaker by the supervision. Groups are in the order in which they
    first appear.
    """
    recordings = [getattr(cut, "recording_id", cut.id) for cut in cuts]  # a mixture has none
    shared = Counter(recordings)
    groups: dict[str, list[tuple[float, int, MonoCut]]] = {}
    for index, cut in enumerate(cuts):
        place = place_by_fields(cut)
        speaker = cut.supervisions[0].speaker if cut.supervisions else None
        if place is None and shared[recordings[index]] > 1:
            group, rank = f"recording {recordings[index]}", cut.start
        elif place := place or place_by_id(cut):
            group, rank = f"chapter {place.chapter}", place.position
        else:
            group, rank = f"speaker {speaker}", 0.0
        groups.setdefault(group, []).append((rank, index, cut))
    return [cut for group in groups.values() for _, _, cut in sorted(group, key=lambda item: item[:2])]


def plan_streams(lengths: Sequence[int], pause: Pause, minutes: float) -> list[list[int]]:
    """Which utterances make up each stream: as many in a row as fit into `minutes`, pauses included.

    Args:
        lengths: samples of each utterance.
        pause: between two of them.
        minutes: longest stream; an utterance that is longer is a stream of its own.

    Raises:
        UserError: see `check_minutes`.
    """
    limit = math.floor(check_minutes(minutes) * 60 * SAMPLE_RATE)
    streams: list[list[int]] = []
    total = limit + 1
    for index, length in enumerate(lengths):
        total += pause.num_samples + length
        if total > limit:
            streams.append([])
            total = length
        streams[-1].append(index)
    return streams


@dataclass(frozen=True)
class JoinedStream:
    """Utterances in one stream."""

    source: JoinedSource
    starts: list[int]
    """The sample at which each utterance starts."""


def join(utterances: Sequence[Piece], pause: Pause, seed: Sequence[int]) -> JoinedStream:
    """Utterances in a row, with a pause after each but the last.

    Args:
        utterances: at least one.
        pause: its noise is another one each time.
        seed: of the noise; the same seed gives the same stream.
    """
    pieces, starts, position = [], [], 0
    for index, utterance in enumerate(utterances):
        if index and pause.num_samples:
            # Bound here: the loop goes on before the pause is made.
            pieces.append(Piece(pause.num_samples, lambda index=index: pause.samples([*seed, index])))  # type: ignore[misc]
            position += pause.num_samples
        starts.append(position)
        pieces.append(utterance)
        position += utterance.count
    return JoinedStream(JoinedSource(pieces), starts)
