"""The streaming recognizer: audio in, words out, chunk by chunk, many streams at a time.

Shapes: B streams, W feature frames of a window, F mel bins, C encoder frames of a chunk.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdasr.bundle import load_bundle
from kdasr.common.errors import UserError
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.fusion import LanguageModel
from kdasr.decoding.hypothesis import Hypothesis, NBest
from kdasr.decoding.rescoring import Rescoring
from kdasr.decoding.search import GreedyOptions, SearchOptions, build_search
from kdasr.models.encoders.base import EncoderState
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.flush import flush_seconds
from kdasr.recognition.pool import Slot, StatePool
from kdasr.recognition.recognizable import Recognizable
from kdasr.recognition.result import GrowingWords, Result, Token, alternative, join_words
from kdasr.recognition.segments import Segmenter
from kdasr.recognition.stream import Stream
from kdasr.recognition.windows import Windows

LONGEST_TAIL = 60.0
"""Seconds of silence after the end of the input; more is a mistake."""


class StreamingRecognizer:
    """Recognizes streams; the result is that of whole utterances under the same context.

    The search is greedy, or the beam search that `search` describes. Beam search may revise what it said
    before, until the stream has ended.

    ```python
    import soundfile
    from kdasr.recognition.recognizer import StreamingRecognizer

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

    A window is ready once its last feature frame is (`kdasr.recognition.windows`). Where the model needs the
    end of the input (`needs_end`, such as under `Context.full()`) the one window is the whole utterance.

    A stream that goes on is cut into segments: after each window, ask `is_endpoint` and, when it is one,
    take the result and `reset` the stream; or leave both to `decode_segments`.
    """

    def __init__(
        self,
        bundle: Recognizable,
        *,
        context: Context | None = None,
        tail_seconds: float | None = None,
        search: SearchOptions | None = None,
        language_model: LanguageModel | Rescoring | None = None,
        biasing: BiasingGraph | None = None,
        endpoints: EndpointRules | None = None,
    ) -> None:
        """
        Args:
            bundle: a trained system from `load_bundle`, or `Parts`. Its model is put in evaluation mode.
            context: run under this one instead of the bundle's (for models trained on several).
            tail_seconds: silence decoded after the end of the input, beyond the frames that it fills itself.
                None: what the context needs (`flush_seconds`).
            search: `GreedyOptions` or `BeamOptions`; greedy search if None.
            language_model: for shallow fusion in beam search, or to rescore what it finds.
            biasing: phrases that every stream is biased to unless it has its own; beam search only.
            endpoints: when `is_endpoint` says that an utterance within a stream is over; None: never.

        Raises:
            UserError: `tail_seconds` is not between 0 and a minute; greedy search with a language model or
                biasing; biasing towards pieces that the model does not have; endpoints where the model needs
                the end of the input.
        """
        if tail_seconds is not None and not 0 <= tail_seconds <= LONGEST_TAIL:
            raise UserError(f"tail_seconds {tail_seconds}: expected 0 to {LONGEST_TAIL:g}")
        self.model = bundle.model.eval()
        self.tokenizer = bundle.tokenizer
        self.context = context or bundle.context
        self.calibration = bundle.calibration
        self.geometry = self.model.geometry
        if tail_seconds is None:
            tail_seconds = flush_seconds(self.context, self.geometry)
        self.tail_seconds = tail_seconds
        self.search = build_search(self.model, search, language_model)
        self._is_greedy = isinstance(self.search.options, GreedyOptions)
        self.biasing = biasing
        self.windows = Windows(self.context, self.geometry)
        self._set_endpoints(endpoints)
        self._device = next(self.model.parameters()).device
        self._pool = self._make_pool()
        self.check_biasing(biasing)
        self.search.initial_state(biasing)  # refuses what the search cannot do before there is any audio

    @classmethod
    def load(
        cls,
        exp_dir: Path | str,
        *,
        context: Context | None = None,
        tail_seconds: float | None = None,
        search: SearchOptions | None = None,
        endpoints: EndpointRules | None = None,
    ) -> "StreamingRecognizer":
        """The recognizer of an experiment folder or checkpoint file, on the CPU."""
        bundle = load_bundle(Path(exp_dir))
        return cls(bundle, context=context, tail_seconds=tail_seconds, search=search, endpoints=endpoints)

    def with_endpoints(self, endpoints: EndpointRules | None) -> "StreamingRecognizer":
        """The same recognizer with other endpoints, or none; each has streams of its own.

        Raises:
            UserError: endpoints where the model needs the end of the input.
        """
        other = copy(self)
        other._set_endpoints(endpoints)
        return other

    @torch.inference_mode()
    def create_stream(self, biasing: BiasingGraph | None = None) -> Stream:
        """A stream that has heard nothing.

        Args:
            biasing: phrases of this stream, in place of the recognizer's; beam search only.

        Raises:
            UserError: biasing in greedy search, or towards pieces that the model does not have.
        """
        slot = self._pool.allocate() if self._pool is not None else None
        self.check_biasing(biasing)
        biasing = biasing or self.biasing
        state = self.search.initial_state(biasing)
        return Stream(slot, state, self.geometry, self.tail_seconds, owner=self, biasing=biasing)

    @property
    def needs_end(self) -> bool:
        """Whether a stream is recognized when its input has ended, in one window (`Geometry.needs_end`)."""
        return self.windows.needs_end

    def is_ready(self, stream: Stream) -> bool:
        """Whether `decode_streams` has something to do for this stream."""
        return self.windows.is_ready(stream)

    def decode_streams(self, streams: Sequence[Stream]) -> None:
        """Decode the next window of each stream, all in one batch, however old each of them is.

        When anything fails, all streams are as they were before.

        Raises:
            ValueError: a stream that is not ready, one of another recognizer, or twice the same stream.
        """
        for stream in streams:
            self._check_owner(stream)
        if not all(self.is_ready(stream) for stream in streams):
            raise ValueError("decode_streams: a stream is not ready; ask is_ready() first")
        if len({id(stream) for stream in streams}) != len(streams):
            raise ValueError("decode_streams: the same stream twice")
        if streams:
            self._decode(streams)

    def decode_all(self, streams: Sequence[Stream]) -> None:
        """Decode until no stream is ready, past endpoints too; `decode_segments` stops to reset there."""
        while ready := [stream for stream in streams if self.is_ready(stream)]:
            self.decode_streams(ready)

    def decode_segments(self, streams: Sequence[Stream], nbest: int = 0) -> Iterator[tuple[Stream, Result]]:
        """Decode until no stream is ready, and reset each at its endpoints.

        Yields:
            A stream that has come to an endpoint, or to the end of its input, and the result of the segment
            that ended there, when anything was said in it.
        """
        while ready := [stream for stream in streams if self.is_ready(stream)]:
            self.decode_streams(ready)
            for stream in ready:
                if self.is_final(stream):
                    result = self.result(stream, nbest)
                    self.reset(stream)
                    if result.tokens:
                        yield stream, result

    def is_endpoint(self, stream: Stream) -> bool:
        """Whether the stream's segment has come to its end by the rules in `endpoints`; then reset it.

        It is to be asked after every window, that is, after `decode_streams`: speech that follows makes it
        false again, and the segment goes on.

        Raises:
            ValueError: a stream of another recognizer.
        """
        self._check_owner(stream)
        return self._segments.is_endpoint(stream)

    def is_final(self, stream: Stream) -> bool:
        """Whether the stream's segment is over: at an endpoint, or at the end of its input."""
        return (stream.is_finished and not self.is_ready(stream)) or self.is_endpoint(stream)

    @torch.inference_mode()
    def reset(self, stream: Stream) -> None:
        """Begin a new segment where the stream stands; no audio is lost.

        Encoder, search and counters are as in a new stream, so that from here on it says what a new stream
        would say of the same features; times go on counting from the start of the stream. Where nothing but
        rule 3 has ended the segment, somebody is speaking: encoder and search go on, and greedy search says
        what it would say without the cut. After silence the segment begins `endpoints.rehear` before the
        endpoint, so that no word is lost that has begun there; where nothing was said in the one before, the
        encoder goes on. With `endpoints.keep_predictor` every segment begins as in sherpa-onnx, with an
        encoder and a predictor that go on.

        Raises:
            ValueError: a stream of another recognizer.
        """
        self._check_owner(stream)
        is_last = stream.is_finished and not self.is_ready(stream)
        new = self._segments.following(stream, self.search, is_last=is_last)
        if self._pool is not None and stream.slot is not None and not new.keeps_encoder:
            self._pool.reset(stream.slot)
        stream.begin_segment(
            new.search_state, goes_on=new.is_cut, reheard=new.reheard, overlapped=new.overlapped
        )

    def result(self, stream: Stream, nbest: int = 0) -> Result:
        """What was recognized so far in the segment, with the `nbest` best hypotheses if asked for.

        Raises:
            UserError: an n-best list in greedy search, or a negative `nbest`.
            ValueError: a stream of another recognizer.
        """
        self._check_owner(stream)
        alternatives = self.nbest(stream, nbest) if nbest else []
        if stream.words is None:
            stream.words = GrowingWords(self.calibration, self.geometry.frame_seconds)
        num_settled = self.search.num_settled(stream.search_state)
        return Result(
            list(stream.tokens),
            is_final=self.is_final(stream),
            segment=stream.segment,
            start=round(stream.segment_start * self.geometry.frame_seconds, 4),
            goes_on=stream.goes_on,
            after_mark=stream.after_mark,
            calibration=self.calibration,
            frame_seconds=self.geometry.frame_seconds,
            nbest=[alternative(self.text(entry.tokens), entry) for entry in alternatives],
            closed=stream.words.closed(stream.tokens, num_settled),
        )

    def nbest(self, stream: Stream, count: int | None = None) -> list[NBest]:
        """The best `count` hypotheses so far (None: all in the beam), the best first, no two alike.

        Raises:
            UserError: greedy search, which has one hypothesis and no score for it; or a negative `count`.
            ValueError: a stream of another recognizer.
        """
        self._check_owner(stream)
        if count is not None and count < 0:
            raise UserError(f"nbest {count}: expected 0 or more hypotheses")
        return self.search.nbest(stream.search_state, count, self.is_final(stream))

    def text(self, tokens: Sequence[int]) -> str:
        """The words that some pieces spell."""
        return join_words([self.tokenizer.piece(token) for token in tokens])

    def samples_needed(self, stream: Stream) -> int | None:
        """Samples (16 kHz) that the next window still waits for; None: it waits for the end of input."""
        return self.windows.samples_needed(stream)

    @torch.inference_mode()
    def _decode(self, streams: Sequence[Stream]) -> None:
        features_BWF, feature_lens_B = self.windows.collect(streams)
        slots = [stream.slot for stream in streams if stream.slot is not None]
        encoded_BCD, lens_B, encoder_state = self._encode(
            features_BWF.to(self._device), feature_lens_B, slots
        )
        states = self.search.advance(encoded_BCD, lens_B, [stream.search_state for stream in streams])
        decoded = [
            self._decoded(stream, state, length)
            for stream, state, length in zip(streams, states, lens_B.tolist(), strict=True)
        ]
        # Nothing has changed so far, and nothing below can fail: an error never leaves a stream half decoded.
        if encoder_state is not None:
            assert self._pool is not None
            self._pool.store(slots, encoder_state)
        for stream, state, (num_decoded, trailing, start, tokens) in zip(
            streams, states, decoded, strict=True
        ):
            stream.search_state = state
            stream.num_decoded = num_decoded
            stream.num_heard = max(stream.num_heard, num_decoded)
            stream.num_trailing_blanks = trailing
            stream.features.discard(self.windows.begin(stream) - self._segments.most_reheard)
            stream.tokens[start:] = tokens

    def _encode(
        self, features_BWF: Tensor, feature_lens_B: Tensor, slots: Sequence[Slot]
    ) -> tuple[Tensor, Tensor, EncoderState | None]:
        """Encoded frames (B, C, D), how many are valid (B,), and the states after them, not yet stored."""
        if self._pool is None:
            encoded = self.model.encode(features_BWF, feature_lens_B, self.context)
            # Of a whole utterance, an encoder may give more frames: they stand for nothing but silence.
            lens_B = encoded.lens_B.minimum(self.geometry.streamed_frames(feature_lens_B))
            return encoded.encoded_BTD, lens_B, None
        all_full = bool((feature_lens_B == features_BWF.shape[1]).all())
        lens = None if all_full else feature_lens_B
        return self.model.encode_chunk(features_BWF, self._pool.gather(slots), self.context, lens)

    def _decoded(self, stream: Stream, state: Any, length: int) -> tuple[int, int, int, list[Token]]:
        """After `length` more frames: frames decoded, those since the last piece, and what is displayed from
        which piece on."""
        num_decoded = stream.num_decoded + length
        in_segment = num_decoded - stream.segment_start
        total = stream.features.total_encoder_frames
        start = self.search.num_settled(stream.search_state)
        final = total is not None and num_decoded >= total
        best = self.search.best(state, start, final)
        trailing = in_segment
        if best.frames:
            trailing = in_segment - 1 - best.frames[-1]
        elif start:
            trailing = num_decoded - 1 - stream.tokens[start - 1].frame
        if not final and self._segments.has_ended(stream, trailing, in_segment):
            best = self.search.best(state, start, final=True)
        return num_decoded, trailing, start, self._displayed(stream, start, best)

    @torch.inference_mode()
    def _make_pool(self) -> StatePool[EncoderState] | None:
        if self.needs_end:
            return None
        return StatePool(self.model.encoder.init_state(1, self.context, self._device))

    def _displayed(self, stream: Stream, start: int, best: Hypothesis) -> list[Token]:
        """`best`, which takes the place of the displayed pieces from number `start` on."""
        tokens, shown = [], self.windows.shown_at(stream)
        # When a search that revises would have settled is not known where all is searched at once.
        frame_decides = self.needs_end and self._is_greedy
        for place, item in enumerate(best.emissions, start):
            frame = stream.segment_start + item.frame
            if frame_decides:
                shown = self.windows.shown_at(stream, frame)
            new = Token.of(item, self.tokenizer.piece(item.token), frame, shown)
            old = stream.tokens[place] if place < len(stream.tokens) else None
            if old is not None and old.id == new.id:
                new = replace(new, shown=old.shown)
            tokens.append(new)
        return tokens

    def _check_owner(self, stream: Stream) -> None:
        if stream.owner is not self:
            raise ValueError("a stream of another recognizer: its state means nothing here")

    def _set_endpoints(self, endpoints: EndpointRules | None) -> None:
        if endpoints is not None and self.needs_end:
            raise UserError(
                "endpoints need a stream that is recognized chunk by chunk: under the context "
                f"'{self.context}' this model needs the end of the input"
            )
        self.endpoints = endpoints
        self._segments = Segmenter(endpoints, self.geometry.stride)

    def check_biasing(self, biasing: BiasingGraph | None) -> None:
        """Refuse biasing towards pieces that the model does not have.

        Raises:
            UserError: it has such pieces.
        """
        if biasing is not None and biasing.largest_piece >= self.tokenizer.vocab_size:
            raise UserError(
                f"biasing towards piece {biasing.largest_piece}: the model has "
                f"{self.tokenizer.vocab_size} pieces"
            )
