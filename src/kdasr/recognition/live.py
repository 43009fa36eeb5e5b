"""The live loop: audio in as it comes, and after each decoded chunk what is heard now, segment by segment.

`kdasr stream`, its microphone, `kdasr serve` and programs in Python all run it:

```python
from kdasr.recognition.live import LiveStream, decode_live
from kdasr.recognition.microphone import microphone

live = LiveStream(recognizer)
for rate, samples in microphone():
    live.accept(rate, samples)
    for _, heard in decode_live([live]):
        print(heard.result.text, "." if heard.is_final else "...")
live.finish()
for _, heard in decode_live([live]):
    print(heard.result.text)
```

Many streams are decoded in one batch: give `decode_live` all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from kdasr.data.features import SAMPLE_RATE
from kdasr.decoding.biasing import BiasingGraph
from kdasr.recognition.audio import Samples
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result


@dataclass(frozen=True)
class Heard:
    """What a stream says after one more chunk. Times in seconds."""

    result: Result
    """Of the segment; its times count from `offset`."""
    offset: float
    """Audio before what the times of the result count from: 0, unless `LiveStream.cut` was called."""
    segment: int
    """Segments with a word before this one."""
    num_settled: int
    """Leading pieces that nothing can change any more."""
    num_trailing_blanks: int
    """Encoder frames of the segment since its last piece; all of them while there is none."""
    decoded: float
    """Audio decoded so far."""
    done: float
    """Audio of which nothing more will be said by this segment or, once it is over, by the next ones."""
    is_final: bool
    """Whether the segment is over; the next `Heard` is of another one."""
    is_eof: bool
    """Whether the stream is."""


class LiveStream:
    """A stream of a recognizer, whose segments end by its endpoint rules, at a cut, and at the end of input.

    A recognizer with full context hears each segment as a whole, so that somebody else has to `cut` it.
    """

    def __init__(self, recognizer: StreamingRecognizer, biasing: BiasingGraph | None = None) -> None:
        """
        Args:
            recognizer: with endpoints, or the stream is one segment.
            biasing: phrases of this stream; beam search only.

        Raises:
            UserError: biasing that the recognizer cannot do.
        """
        self.recognizer = recognizer
        self.stream = recognizer.create_stream(biasing)
        """What is decoded at the moment; its `faults` are of all audio so far."""
        self._biasing = biasing
        self._offset, self._segment = 0.0, 0
        self._is_last = False
        self.is_done = False
        """Whether the end of the input was decoded and taken."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a chunk to decode."""
        return not self.is_done and self.recognizer.is_ready(self.stream)

    @property
    def is_silent_end(self) -> bool:
        """Whether the input has ended, or was cut, with nothing left to decode, and that was not taken."""
        return self.stream.is_finished and not self.is_done and not self.recognizer.is_ready(self.stream)

    @property
    def decoded_seconds(self) -> float:
        """Audio decoded so far."""
        frames = self.stream.num_heard * self.recognizer.geometry.frame_seconds
        return self._offset + min(frames, self.stream.seconds)

    @property
    def _done_seconds(self) -> float:
        """See `Heard.done`."""
        frames = self.stream.num_done * self.recognizer.geometry.frame_seconds
        return round(self._offset + min(frames, self.stream.seconds), 4)

    @property
    def needed_seconds(self) -> float:
        """Audio that the next chunk needs."""
        return self._offset + self.recognizer.windows.shown_at(self.stream)

    def accept(self, rate: int, samples: Samples) -> None:
        """Take some audio.

        Raises:
            UserError: unusable samples, another rate than before, or the input has ended.
        """
        self.stream.accept_waveform(rate, samples)

    def finish(self) -> None:
        """The input has ended."""
        self._is_last = True
        self._close()

    def cut(self) -> bool:
        """End the segment here, whatever the rules say; False: nothing has come since the last cut."""
        return bool(self.stream.seconds) and self._close()

    def _close(self) -> bool:
        is_open = not self.stream.is_finished
        if is_open:
            self.stream.input_finished(warn=False)
        return is_open

    def take(self, nbest: int = 0) -> Heard:
        """What is heard, now that a chunk was decoded or at a silent end; begins the next segment at an end.

        Args:
            nbest: hypotheses in the result; beam search only.
        """
        stream = self.stream
        result = self.recognizer.result(stream, nbest if self.recognizer.is_final(stream) else 0)
        heard = Heard(
            result=result,
            offset=round(self._offset, 4),
            segment=self._segment + result.segment,
            num_settled=self.recognizer.search.num_settled(stream.search_state),
            num_trailing_blanks=stream.num_trailing_blanks,
            decoded=self.decoded_seconds,
            done=self._done_seconds,
            is_final=result.is_final,
            is_eof=self._is_last and not self.recognizer.is_ready(stream),
        )
        self.is_done = heard.is_eof
        if heard.is_eof:
            return replace(heard, done=heard.decoded)
        if not heard.is_final:
            return heard
        self._begin_segment(result)
        return replace(heard, done=self._done_seconds)

    def _begin_segment(self, result: Result) -> None:
        if not self.stream.is_finished or self.recognizer.is_ready(self.stream):  # audio is left in it
            self.recognizer.reset(self.stream)
            return
        before, self.stream = self.stream, self.recognizer.create_stream(self._biasing)
        self.stream.measure_on(before)
        self._offset += before.features.num_samples / SAMPLE_RATE
        self._segment += result.segment + bool(result.tokens)


def decode_live(streams: Sequence[LiveStream], nbest: int = 0) -> Iterator[tuple[LiveStream, Heard]]:
    """Decode until no stream has a chunk left, a batch of one chunk of each at a time.

    Args:
        streams: of one recognizer.
        nbest: hypotheses in final results; beam search only.

    Yields:
        After each chunk of a stream, and at its end, the stream and what is heard now.
    """
    while True:
        for live in streams:
            if live.is_silent_end:
                yield live, live.take(nbest)
        ready = [live for live in streams if live.is_ready]
        if not ready:
            return
        ready[0].recognizer.decode_streams([live.stream for live in ready])
        for live in ready:
            yield live, live.take(nbest)
