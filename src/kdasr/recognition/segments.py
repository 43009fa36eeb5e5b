"""Where the segments of a stream end, and what of a segment the next one begins with."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from kdasr.decoding.search import Search
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.stream import Stream


class NextSegment(NamedTuple):
    """What a segment begins with. Numbers of encoder frames, before the one at which the stream was reset."""

    search_state: Any
    keeps_encoder: bool = False
    """Whether the encoder's state stays as it is; else it is that of a new stream."""
    is_cut: bool = False
    """Whether the segment goes on in the middle of speech."""
    reheard: int = 0
    """Those that it hears again."""
    overlapped: int = 0
    """Those of which it may still say something."""


@dataclass(frozen=True)
class Segmenter:
    """Endpoint rules, asked of streams."""

    rules: EndpointRules | None
    """None: a segment ends with its stream."""
    stride: int
    """Feature frames of an encoder frame."""

    def has_ended(self, stream: Stream, trailing_frames: int, length_frames: int) -> bool:
        """Whether a segment of the stream has ended when it is `length_frames` encoder frames long and the
        last `trailing_frames` of them emitted nothing."""
        if self.rules is None or not stream.has_endpoints:
            return False
        return self.rules.is_endpoint(trailing_frames * self.stride, length_frames * self.stride)

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the segment of a stream has ended."""
        return self.has_ended(stream, stream.num_trailing_blanks, stream.segment_frames)

    @property
    def most_reheard(self) -> int:
        """Feature frames before a reset that are needed again at most."""
        return self.rules.most_reheard_frames if self.rules is not None else 0

    def following(self, stream: Stream, search: Search, *, is_last: bool) -> NextSegment:
        """What a reset makes of a stream.

        Args:
            stream: where it stands.
            search: that of its recognizer.
            is_last: whether all of its input was decoded, so that no word of it can be lost.
        """
        rules = self.rules
        if rules is not None and rules.keep_predictor:
            state = search.carried_over(stream.search_state)
            return NextSegment(state, keeps_encoder=rules.keep_encoder)
        new = NextSegment(search.initial_state(stream.biasing))
        if rules is None or not self.is_endpoint(stream):
            return new
        trailing, length = stream.num_trailing_blanks * self.stride, stream.segment_frames * self.stride
        if not rules.is_silent(trailing, length):
            state = search.continued(stream.search_state)
            return NextSegment(state, keeps_encoder=True, is_cut=True)
        if is_last or not self.most_reheard:
            return new
        if not stream.tokens:  # nothing to forget
            overlapped = min(stream.segment_frames, self.most_reheard // self.stride)
            return new._replace(keeps_encoder=True, overlapped=overlapped)
        # A final result may have later pieces than the search's best hypothesis until then.
        quiet = min(stream.num_trailing_blanks, stream.num_decoded - 1 - stream.tokens[-1].frame)
        reheard = rules.reheard_frames(quiet * self.stride) // self.stride
        return new._replace(reheard=reheard, overlapped=reheard)
