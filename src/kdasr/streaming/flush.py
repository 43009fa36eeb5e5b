"""How much silence ends a stream, so that its last word is heard and no time is wasted."""

from math import ceil, floor

from kdasr.data.features import FRAME_SHIFT_SECONDS
from kdasr.nn.context import FRAME_SECONDS, Context
from kdasr.nn.subsampling import MIN_FRAMES

FRONT_END_SECONDS = (MIN_FRAMES - 1) * FRAME_SHIFT_SECONDS + 0.025
"""Audio that one encoder frame is computed from: seven feature frames, each of 25 ms. That is 85 ms."""


def flush_seconds(context: Context) -> float:
    """Silence decoded after the end of the input, beyond the frames that the input itself fills.

    A transducer emits a word's last piece when it has heard that the word is over, and microphones are
    switched off before that. A chunked context gets the whole encoder frames that cover the front end's
    reach, three, and its right context on top, so that the frame after the last sound and those that it
    waits for are heard in full. Under a full context every frame of the utterance looks at the silence, and
    models trained on utterances with little of it lose words: there it is the two frames that fit the reach.

    Measured on the demo's test parts, cut at the very end of the last word: recall of that word rises up to
    this much silence, for the two-stage student from 79 of 208 to 156, and no further.
    """
    frames = FRONT_END_SECONDS / FRAME_SECONDS
    return FRAME_SECONDS * (floor(frames) if context.is_full else ceil(frames) + context.right)
