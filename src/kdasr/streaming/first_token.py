"""What the latency of the first token consists of.

The parts follow the token's way to the screen, and add up to the wall-clock latency exactly:

- model delay: from the onset of the first word to the end of the encoder frame (40 ms) in which the model
  emits; what training can change. Negative where the model emits before the word is known to have begun.
- front end: what must be heard after that frame to compute its features (the overlap of the convolutions and
  half an analysis window).
- chunk: from there until the chunk of that frame is complete.
- right context: until its look-ahead is complete.
- search: until the search had settled on the token; 0 for greedy search, which revises nothing.
- compute: features, encoder, search, and waiting for the processor.

A stream that ends earlier cuts the waiting short: what is never waited for counts 0.
"""

from dataclasses import dataclass
from itertools import pairwise

from kdasr.data.features import SAMPLE_RATE
from kdasr.nn.context import FRAME_SECONDS, Context
from kdasr.streaming.features import OVERLAP, SUBSAMPLING, samples_for_frame


@dataclass(frozen=True)
class FirstTokenParts:
    """Milliseconds, in the order of time."""

    model_delay: float
    front_end: float
    chunk: float
    right_context: float
    search: float
    compute: float


def first_token_parts(
    frame: int, shown: float, wall: float, onset: float, context: Context
) -> FirstTokenParts:
    """The parts of one utterance's first-token latency.

    Args:
        frame: encoder frame of emission.
        shown: seconds of audio that had arrived when the token could be shown.
        wall: the same with compute and queueing.
        onset: seconds at which the first word begins.
        context: the encoder's.
    """
    emitted = (frame + 1) * FRAME_SECONDS
    if context.is_full:
        waits = [_heard(frame), shown, shown]
    else:
        last = (frame // context.chunk + 1) * context.chunk - 1
        waits = [_heard(frame), _heard(last), _heard(last + context.right)]
    # The input may end before any of these.
    times = [onset, *(min(end, shown) for end in (emitted, *waits)), shown]
    times.append(wall)
    return FirstTokenParts(*(1000.0 * (end - begin) for begin, end in pairwise(times)))


def _heard(frame: int) -> float:
    """Seconds of audio that an encoder frame needs."""
    return samples_for_frame(SUBSAMPLING * frame + SUBSAMPLING + OVERLAP - 1) / SAMPLE_RATE
