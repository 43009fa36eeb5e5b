"""When an utterance within a stream is over: the three rules of sherpa-onnx, with its names.

A segment is what a stream has heard since it began or was last reset, and some silence before (see `rehear`).
Its trailing silence is the time since the last piece was emitted, or all of it while there is none. The
segment has come to its end when

1. there are `rule1_min_trailing_silence` seconds of trailing silence, whether or not anything was said;
2. there are `rule2_min_trailing_silence` seconds of it after something was said;
3. or the segment is `rule3_min_utterance_length` seconds long, even in the middle of a word.

Both times are those of encoder frames that were searched, so that an endpoint is noticed at the end of a
chunk, and as late as the model emits. sherpa-onnx multiplies frames of 10 ms with 0.01 in 32 bits, where 120
of them are less than 1.2; so do the rules here, or the two would differ by a chunk now and then.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import FRAME_SHIFT_SECONDS

KEEP_PREDICTOR = False
"""Whether a reset leaves the last pieces in the predictor's context; docs/streaming.md says why not."""
RULES = ("rule1_min_trailing_silence", "rule2_min_trailing_silence", "rule3_min_utterance_length")
UNHEARD_AGAIN = 0.4
"""Seconds after the last piece that no later segment hears again: its word may still sound there."""
MOST_REHEARD = 5.0
"""Seconds; these features of every stream are kept."""
LONGEST = 1e5
"""Seconds, more than a day: who wants a rule never to hold asks for this much."""


@dataclass(frozen=True)
class EndpointRules:
    """When a segment ends, and what the next one begins with. Times in seconds."""

    rule1_min_trailing_silence: float = 2.4
    """Silence that ends a segment, even one without a word."""
    rule2_min_trailing_silence: float = 1.2
    """Silence that ends a segment once something was said."""
    rule3_min_utterance_length: float = 20.0
    """Length that ends a segment, whatever is being said."""
    rehear: float = 0.8
    """So much of the silence that ended a segment belongs to the next one too, which hears it with a new
    encoder state. A model emits a word some time after it has begun: one that begins before an endpoint is
    noticed would be lost with the state that heard it. After a segment without a piece, the encoder goes on
    instead. 0: neither; so it is with `keep_predictor`."""
    keep_predictor: bool = KEEP_PREDICTOR
    """Whether the next segment begins as in sherpa-onnx after every endpoint: with a predictor that still
    sees the last pieces, and an encoder that goes on (but see `keep_encoder`). If not, a stream that is reset
    after silence is as a new one in every respect (but see `rehear`), and one that rule 3 cut in the middle
    of speech goes on as if it had not been cut."""
    keep_encoder: bool = True
    """With `keep_predictor`: whether the encoder's state stays too. So it is in sherpa-onnx, but for graphs
    that do not count frames in their own state."""

    def __post_init__(self) -> None:
        for name in RULES:
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value <= LONGEST):
                raise UserError(f"{name} {value}: expected seconds, above 0 and at most {LONGEST:g}")
        if not (_is_number(self.rehear) and 0 <= self.rehear <= MOST_REHEARD):
            raise UserError(f"rehear {self.rehear}: expected seconds, 0 to {MOST_REHEARD:g}")

    def is_endpoint(self, trailing_frames: int, length_frames: int) -> bool:
        """Whether a segment has ended that is `length_frames` feature frames (10 ms) long, when the last
        `trailing_frames` of them emitted nothing."""
        return self.is_silent(trailing_frames, length_frames) or length_frames >= _feature_frames(
            self.rule3_min_utterance_length
        )

    def is_silent(self, trailing_frames: int, length_frames: int) -> bool:
        """Whether it has ended by silence: rule 1 or rule 2."""
        if trailing_frames >= _feature_frames(self.rule1_min_trailing_silence):
            return True
        return length_frames > trailing_frames >= _feature_frames(self.rule2_min_trailing_silence)

    @property
    def most_reheard_frames(self) -> int:
        """Feature frames that a segment may hear again."""
        return 0 if self.keep_predictor else _whole_frames(self.rehear)

    def reheard_frames(self, trailing_frames: int) -> int:
        """Feature frames that the next segment hears again when the last `trailing_frames` of this one
        emitted nothing, and it has ended by silence."""
        return max(0, min(self.most_reheard_frames, trailing_frames - _whole_frames(UNHEARD_AGAIN)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole_frames(seconds: float) -> int:
    """Feature frames (10 ms) that fit into so many seconds."""
    return int(round(seconds / FRAME_SHIFT_SECONDS, 6))  # rounded first: 0.29 / 0.01 is a little less than 29


@lru_cache
def _feature_frames(seconds: float) -> int:
    """The smallest number of feature frames (10 ms) that are so many seconds in 32-bit numbers."""
    shift, target = np.float32(FRAME_SHIFT_SECONDS), np.float32(seconds)
    frames = max(1, int(seconds / FRAME_SHIFT_SECONDS) - 2)
    while np.float32(frames) * shift < target:
        frames += 1
    return frames
