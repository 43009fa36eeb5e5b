"""Where the segments of a stream end, and what of a segment the next one begins with."""

from dataclasses import dataclass
from typing import Any

from kdasr.decoding.search import Search
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.stream import Stream


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

    def is_cut(self, stream: Stream) -> bool:
        """Whether a reset comes in the middle of speech and forgets nothing."""
        if self.rules is None or self.rules.keep_predictor or not self.is_endpoint(stream):
            return False
        trailing, length = stream.num_trailing_blanks * self.stride, stream.segment_frames * self.stride
        return not self.rules.is_silent(trailing, length)

    def keeps_encoder(self, stream: Stream) -> bool:
        """Whether a reset leaves the encoder's state as it is."""
        if self.rules is not None and self.rules.keep_predictor:
            return self.rules.keep_encoder
        return self.is_cut(stream) or self._is_silence(stream)

    def num_reheard(self, stream: Stream) -> int:
        """Encoder frames before a reset that the next segment hears again."""
        if self.rules is None or self.keeps_encoder(stream) or not self.is_endpoint(stream):
            return 0
        # A final result may have later pieces than the search's best hypothesis until then.
        quiet = min(stream.num_trailing_blanks, stream.num_decoded - 1 - stream.last_frame)
        return self.rules.reheard_frames(quiet * self.stride) // self.stride

    def num_overlapped(self, stream: Stream) -> int:
        """Encoder frames before a reset that whoever begins the next segment in a new stream has to hear."""
        if self._is_silence(stream) and not self.is_cut(stream):
            return min(stream.segment_frames, self.most_reheard // self.stride)
        return self.num_reheard(stream)

    def _is_silence(self, stream: Stream) -> bool:
        """Whether nothing was said in a segment that has ended, so that its encoder has nothing to forget."""
        return bool(self.most_reheard) and not stream.tokens and self.is_endpoint(stream)

    @property
    def most_reheard(self) -> int:
        """Feature frames before a reset that are needed again at most."""
        return self.rules.most_reheard_frames if self.rules is not None else 0

    def next_state(self, stream: Stream, search: Search) -> Any:
        """The state of the search with which the next segment begins."""
        if self.rules is not None and self.rules.keep_predictor:
            return search.carried_over(stream.search_state)
        if self.is_cut(stream):
            return search.continued(stream.search_state)
        return search.initial_state(stream.biasing)
