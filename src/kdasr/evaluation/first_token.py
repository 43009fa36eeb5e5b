"""What the latency of the first token consists of.

The parts follow the token's way to the screen, and add up to the wall-clock latency exactly:

- model delay: from the onset of the first word to the end of the encoder frame in which the model
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

from kdasr.recognition.windows import Windows


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
    frame: int, shown: float, wall: float, onset: float, windows: Windows
) -> FirstTokenParts:
    """The parts of one utterance's first-token latency.

    Args:
        frame: encoder frame of emission.
        shown: seconds of audio that had arrived when the token could be shown.
        wall: the same with compute and queueing.
        onset: seconds at which the first word begins.
        windows: of the stream.
    """
    context, heard = windows.context, windows.heard_seconds
    emitted = (frame + 1) * windows.geometry.frame_seconds
    if context.is_full:
        waits = [heard(frame), shown, shown]
    else:
        begin = frame // context.chunk * context.chunk
        lasts = begin + context.chunk - 1, begin + windows.geometry.wait_frames(context) - 1
        waits = [heard(frame), *map(heard, lasts)]
    # The input may end before any of these.
    times = [onset, *(min(end, shown) for end in (emitted, *waits)), shown]
    times.append(wall)
    return FirstTokenParts(*(1000.0 * (end - begin) for begin, end in pairwise(times)))
