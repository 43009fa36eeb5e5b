"""One stream: the audio that came in, and where the recognizer stands in it."""

from typing import Any

from numpy.typing import ArrayLike

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.signal_check import SignalMeter
from kdasr.data.tokenizer import WORD_START
from kdasr.decoding.biasing import BiasingGraph
from kdasr.models.encoders.base import Geometry
from kdasr.recognition.features import features_for
from kdasr.recognition.pool import Slot
from kdasr.recognition.result import GrowingWords, Token

log = get_logger(__name__)


class Stream:
    """The audio and the state of one stream; made by `StreamingRecognizer.create_stream`.

    Users call `accept_waveform` and `input_finished`; everything else belongs to the recognizer.
    """

    def __init__(
        self,
        slot: Slot | None,
        search_state: Any,
        geometry: Geometry,
        tail_seconds: float,
        owner: Any,
        biasing: BiasingGraph | None = None,
    ) -> None:
        self.signal = SignalMeter()
        """What came in, measured; see `faults`."""
        self.features = features_for(geometry, tail_seconds, self.signal)
        self.owner = owner
        """The recognizer that made it."""
        self.biasing = biasing
        """Phrases that it is biased to."""
        self.slot = slot
        """Place of the encoder's state in the recognizer's pool; None where all is recognized at once."""
        self.search_state = search_state
        """Of the recognizer's search (`kdasr.decoding.search.Search`)."""
        self.tokens: list[Token] = []
        """What is displayed: the best hypothesis of the segment so far. Beam search may revise it."""
        self.words: GrowingWords | None = None
        """Those of the segment, once somebody has asked for a result."""
        self.has_endpoints = True
        """Whether its segments end by the recognizer's rules; else it is one segment."""
        self.num_decoded = 0
        """Encoder frames searched so far, since the stream began."""
        self.num_heard = 0
        """The most that `num_decoded` has been: a segment may begin before it (`EndpointRules.rehear`)."""
        self.segment = 0
        """Number of the segment; it grows at a reset, unless the segment had no piece."""
        self.segment_start = 0
        """Encoder frame at which the segment began: that of the last reset, or before it."""
        self.num_done = 0
        """Encoder frames of which nothing more will be said: a new stream from there on can say the rest."""
        self.goes_on = False
        """Whether the segment goes on in the speech of the one before, which was cut by its length."""
        self.after_mark = False
        """Whether the last piece before that cut was a bare word boundary."""
        self.num_trailing_blanks = 0
        """Encoder frames of the segment since its last piece; all of them while there is none."""

    def accept_waveform(self, sample_rate: int, samples: ArrayLike) -> None:
        """Append audio: any number of samples of one channel, at any rate that stays the same.

        Args:
            sample_rate: in Hz; other rates than 16 kHz are converted.
            samples: floats in [-1, 1], or an integer type, which is scaled by its range.

        Raises:
            UserError: the input was finished before, the rate changed, or the samples are unusable.
        """
        if self.is_finished:
            raise UserError("audio after input_finished(): this stream has ended, create a new one")
        self.features.accept(sample_rate, samples)

    def input_finished(self, *, warn: bool = True) -> None:
        """Say that no more audio comes: the last frames can be decoded. A second call does nothing.

        `warn`: log what is wrong with the input (see `faults`).
        """
        if self.is_finished:
            return
        self.features.finish()
        for fault in self.faults if warn else ():
            log.warning("input %s", fault)

    def measure_on(self, before: "Stream") -> None:
        """Let `faults` be of all audio since the start of `before`, the stream that this one goes on from."""
        self.signal = self.features.meter = before.signal

    @property
    def segment_frames(self) -> int:
        """Encoder frames of the segment that were searched so far."""
        return self.num_decoded - self.segment_start

    def begin_segment(
        self, search_state: Any, *, goes_on: bool, reheard: int = 0, overlapped: int = 0
    ) -> None:
        """Begin a segment where the stream stands.

        Args:
            search_state: of the search.
            goes_on: whether this is in the middle of speech.
            reheard: encoder frames by which it begins before.
            overlapped: encoder frames before, of which the segment may still say something.
        """
        self.search_state = search_state
        # A segment without a piece goes on only where the one before it was cut too.
        self.goes_on = goes_on and (bool(self.tokens) or self.goes_on)
        self.after_mark = self.goes_on and (
            self.tokens[-1].piece == WORD_START if self.tokens else self.after_mark
        )
        self.segment += bool(self.tokens)
        self.num_done = max(self.num_done, self.num_decoded - overlapped)
        self.num_decoded -= reheard
        self.segment_start = self.num_decoded
        self.num_trailing_blanks = 0
        self.tokens, self.words = [], None

    @property
    def faults(self) -> list[str]:
        """Why the input so far may be recognized badly, a line each: too quiet (with its level), silent,
        clipped, or band-limited. Empty when nothing is wrong.
        """
        return list(self.signal.report().faults.values())

    @property
    def is_finished(self) -> bool:
        """Whether the input has ended (not whether all of it was decoded)."""
        return self.features.total_encoder_frames is not None

    @property
    def seconds(self) -> float:
        """Audio that came in so far."""
        return self.features.num_samples / SAMPLE_RATE
