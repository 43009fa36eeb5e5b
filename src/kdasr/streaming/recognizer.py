"""The streaming recogniser: audio in, words out, chunk by chunk, many streams at a time.

Shapes: B streams, W feature frames of a window, F mel bins, T feature frames, C encoder frames of a chunk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from kdasr.checkpoint import load_bundle
from kdasr.common.errors import UserError
from kdasr.data.features import NUM_MEL_BINS, SAMPLE_RATE
from kdasr.data.tokenizer import Tokenizer
from kdasr.decoding.greedy import Hypothesis, greedy_chunk, initial_state
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.streaming import split_state, stack_states
from kdasr.streaming.features import OVERLAP, SUBSAMPLING, samples_for_frame
from kdasr.streaming.result import Result, Token
from kdasr.streaming.stream import Stream


class Recognisable(Protocol):
    """What a recogniser is made of: a `Bundle`, or `Parts`."""

    @property
    def model(self) -> Transducer: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def context(self) -> Context: ...


class Parts(NamedTuple):
    """A model that does not come from an experiment folder."""

    model: Transducer
    tokenizer: Tokenizer
    context: Context


class StreamingRecognizer:
    """Recognises streams with greedy search; the result is that of whole utterances under the same context.

    ```python
    import soundfile
    from kdasr.streaming.recognizer import StreamingRecognizer

    recognizer = StreamingRecognizer.load("exp/demo/two-stage")
    samples, rate = soundfile.read("speech.wav", dtype="float32")
    stream = recognizer.create_stream()
    for start in range(0, len(samples), rate // 10):  # packets of 100 ms, as a microphone would send
        stream.accept_waveform(rate, samples[start : start + rate // 10])
        while recognizer.is_ready(stream):
            recognizer.decode_streams([stream])
        print(recognizer.result(stream).text)
    stream.input_finished()
    recognizer.decode_all([stream])
    print([(token.piece, token.shown) for token in recognizer.result(stream).tokens])
    ```

    A window is ready once its last feature frame is: `chunk + right` encoder frames and three feature
    frames of overlap. Under `Context.full()` the one window is the whole utterance, ready when the input is
    finished.
    """

    def __init__(
        self, bundle: Recognisable, *, context: Context | None = None, tail_seconds: float = 0.0
    ) -> None:
        """
        Args:
            bundle: a trained system from `load_bundle`, or `Parts`. Its model is put in evaluation mode.
            context: run under this one instead of the bundle's (for models trained on several).
            tail_seconds: silence decoded after the end of the input, beyond what the front end needs.

        Raises:
            UserError: `tail_seconds` is negative.
        """
        if tail_seconds < 0:
            raise UserError(f"tail_seconds {tail_seconds}: expected 0 or more")
        self.model = bundle.model.eval()
        self.tokenizer = bundle.tokenizer
        self.context = context or bundle.context
        self.tail_seconds = tail_seconds
        self._device = next(self.model.parameters()).device

    @classmethod
    def load(
        cls, exp_dir: Path | str, *, context: Context | None = None, tail_seconds: float = 0.0
    ) -> "StreamingRecognizer":
        """The recogniser of an experiment folder or checkpoint file, on the CPU."""
        return cls(load_bundle(Path(exp_dir)), context=context, tail_seconds=tail_seconds)

    @torch.inference_mode()
    def create_stream(self) -> Stream:
        """A stream that has heard nothing."""
        encoder_state = None
        if not self.context.is_full:
            encoder_state = self.model.encoder.init_state(1, self.context, self._device)
        return Stream(encoder_state, initial_state(self.model, 1), self.tail_seconds)

    def is_ready(self, stream: Stream) -> bool:
        """Whether `decode_streams` has something to do for this stream."""
        total = stream.features.total_encoder_frames
        if total is not None:
            return stream.num_decoded < total
        if self.context.is_full:
            return False
        return stream.features.num_ready >= self._window_end(stream)

    def decode_streams(self, streams: Sequence[Stream]) -> None:
        """Decode the next window of each stream, all in one batch, however old each of them is.

        Raises:
            ValueError: a stream that is not ready, or twice the same stream.
        """
        if not all(self.is_ready(stream) for stream in streams):
            raise ValueError("decode_streams: a stream is not ready; ask is_ready() first")
        if len({id(stream) for stream in streams}) != len(streams):
            raise ValueError("decode_streams: the same stream twice")
        if streams:
            self._decode(streams)

    def decode_all(self, streams: Sequence[Stream]) -> None:
        """Decode until no stream is ready."""
        while ready := [stream for stream in streams if self.is_ready(stream)]:
            self.decode_streams(ready)

    def result(self, stream: Stream) -> Result:
        """What was recognised so far."""
        return Result(list(stream.tokens), is_final=stream.is_finished and not self.is_ready(stream))

    def samples_needed(self, stream: Stream) -> int | None:
        """Samples (16 kHz) that the next window still waits for; None: it waits for the end of input."""
        if self.context.is_full or stream.is_finished:
            return None
        return max(0, samples_for_frame(self._window_end(stream) - 1) - stream.features.num_samples)

    def _window_end(self, stream: Stream) -> int:
        """The feature frame after the stream's next window."""
        return SUBSAMPLING * (stream.num_decoded + self.context.window_frames) + OVERLAP

    @torch.inference_mode()
    def _decode(self, streams: Sequence[Stream]) -> None:
        features_BWF, feature_lens_B = self._windows(streams)
        if self.context.is_full:
            encoded = self.model.encode(features_BWF, feature_lens_B, self.context)
            encoded_BCD, lens_B = encoded.encoded_BTD, encoded.lens_B
        else:
            encoded_BCD, lens_B = self._encode_chunk(streams, features_BWF, feature_lens_B)
        search_state = stack_states([stream.search_state for stream in streams])
        hypotheses, search_state = greedy_chunk(self.model, encoded_BCD, lens_B, search_state)
        rows = zip(streams, split_state(search_state), hypotheses, lens_B.tolist(), strict=True)
        for stream, new_state, hypothesis, length in rows:
            stream.search_state = new_state
            self._append(stream, hypothesis)
            stream.num_decoded += length
            stream.features.discard(SUBSAMPLING * stream.num_decoded)

    def _encode_chunk(
        self, streams: Sequence[Stream], features_BWF: Tensor, feature_lens_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        states = [stream.encoder_state for stream in streams if stream.encoder_state is not None]
        all_full = bool((feature_lens_B == features_BWF.shape[1]).all())
        encoded_BCD, lens_B, state = self.model.encode_chunk(
            features_BWF,
            stack_states(states),
            self.context,
            None if all_full else feature_lens_B,
        )
        for stream, new_state in zip(streams, split_state(state), strict=True):
            stream.encoder_state = new_state
        return encoded_BCD, lens_B

    def _windows(self, streams: Sequence[Stream]) -> tuple[Tensor, Tensor]:
        """The next window of each stream, padded to (B, W, F), and the valid frames of each."""
        windows = []
        for stream in streams:
            features = stream.features
            end = features.num_ready if self.context.is_full else self._window_end(stream)
            windows.append(features.window(SUBSAMPLING * stream.num_decoded, end))
        lens = [len(window) for window in windows]
        width = max(lens) if self.context.is_full else SUBSAMPLING * self.context.window_frames + OVERLAP
        features_BWF = np.zeros((len(streams), width, NUM_MEL_BINS), dtype=np.float32)
        for row, window in enumerate(windows):
            features_BWF[row, : len(window)] = window
        return torch.from_numpy(features_BWF).to(self._device), torch.tensor(lens)

    def _append(self, stream: Stream, hypothesis: Hypothesis) -> None:
        if not hypothesis.tokens:
            return
        shown = stream.seconds
        if not self.context.is_full:
            shown = min(shown, samples_for_frame(self._window_end(stream) - 1) / SAMPLE_RATE)
        for token, frame in zip(hypothesis.tokens, hypothesis.frames, strict=True):
            piece = self.tokenizer.piece(token)
            stream.tokens.append(Token(token, piece, stream.num_decoded + frame, shown))
