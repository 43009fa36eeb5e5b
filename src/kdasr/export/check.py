"""sherpa-onnx against our own recognizer, piece by piece and frame by frame, on every utterance."""

# Shapes: N samples at 16 kHz.

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.data.features import FRAME_SHIFT_SAMPLES, SAMPLE_RATE, num_feature_frames
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.hypothesis import NBest
from kdasr.evaluation.wer import ErrorCounts, word_errors
from kdasr.export.bundle import BundleFolder
from kdasr.export.client import ClientPiece, Samples, Segment, SherpaClient, SherpaOffline
from kdasr.export.offline import SHORTEST
from kdasr.export.reference import client_rules, decode_segments, decode_windows, emissions_of, segment_of
from kdasr.export.ties import TIE, ties_between
from kdasr.recognition.features import whole_features
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizable import Recognizable
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import join_words
from kdasr.recognition.sources import SampleSource
from kdasr.recognition.stream import Stream

PAUSES = (0.3, 2.6, 6.0)
"""Seconds of silence between the utterances of one stream: too short for an endpoint, long enough for one
after something was said, and so long that one with nothing before it follows."""
BATCH = 4
"""Whole utterances that are recognized together."""
BEAM = 4
"""Hypotheses in beam search; sherpa-onnx's own default."""
_BEAM_SEARCH = f"modified beam search ({BEAM})"


@dataclass(frozen=True)
class Clip:
    """An utterance to be decoded both ways."""

    id: str
    source: SampleSource
    ref: str = ""
    """What was said."""

    @property
    def samples_N(self) -> Samples:  # noqa: N802
        """All of it, in memory from now on; read anew each time where the source is not an array."""
        return self.source[:]


@dataclass
class Comparison:
    """One way of decoding, over all utterances."""

    name: str
    identical: dict[str, bool] = field(default_factory=dict)
    """By utterance; ties count as identical."""
    num_pieces: int = 0
    """Our pieces."""
    ties: list[str] = field(default_factory=list)
    """Where the two chose differently between pieces or hypotheses with the same score, one line each."""
    num_resets: int = 0
    differences: list[str] = field(default_factory=list)
    """What differed, one line each."""
    errors: ErrorCounts = field(default_factory=ErrorCounts)
    """Word errors of sherpa-onnx."""

    def add(
        self,
        spoken: Sequence[Clip],
        theirs: Sequence[Segment],
        ours: Sequence[Segment],
        find_ties: Callable[[], list[str] | None] = lambda: None,
    ) -> None:
        """Compare what both decoded of a stream that spoke these utterances, segment by segment.

        `find_ties`: asked when they differ, for the ties if there is nothing else (see `ties_between`).
        """
        names = "+".join(utterance.id for utterance in spoken)
        if list(theirs) != list(ours) and (ties := find_ties()) is not None:
            self.ties += [f"{names}, {tie}" for tie in ties]
            ours = theirs
        pairs = list(zip_longest(theirs, ours))
        same = [their == our for their, our in pairs]
        for utterance in spoken:  # one may be spoken twice: see `_groups`
            self.identical[utterance.id] = self.identical.get(utterance.id, True) and all(same)
        self.num_pieces += sum(len(segment.emissions) for segment in ours)
        self.num_resets += len(theirs) - 1
        words = " ".join(join_words([piece for piece, _ in segment.emissions]) for segment in theirs)
        self.errors += word_errors(" ".join(utterance.ref for utterance in spoken), words)
        for number in [index for index, good in enumerate(same) if not good]:
            self.differences.append(f"{names}, segment {number + 1}: {_difference(*pairs[number])}")

    @property
    def summary(self) -> str:
        """One line."""
        good = sum(self.identical.values())
        facts = [f"{self.num_pieces} pieces"]
        facts += [f"{len(self.ties)} ties"] if self.ties else []
        facts += [f"{self.num_resets} resets"] if self.num_resets else []
        facts += [f"sherpa-onnx's WER {self.errors.rate:.2f} %"] if self.errors.words else []
        return f"{self.name}: {good} of {len(self.identical)} identical ({', '.join(facts)})"


def compare_with_sherpa(
    bundle: BundleFolder, ours: Recognizable, utterances: Sequence[Clip], *, int8: bool = False
) -> Iterator[Comparison]:
    """Decode every utterance by sherpa-onnx and by our recognizer, in each way that must agree.

    Greedy search: one stream; four utterances in one stream with endpoint resets, which each of the two
    decides on by itself; two streams in one batch. Then modified beam search: one stream, and with resets.
    Graphs for whole utterances are compared by greedy search, four utterances in a batch.

    int8 graphs get the first two only, because they scale a batch as a whole, so that what is in it is not
    independent. They agree in every utterance only where onnxruntime is of the version inside sherpa-onnx:
    another kernel's rounding can move an activation by one of 255 steps.

    Args:
        bundle: what sherpa-onnx runs.
        ours: the PyTorch model that was exported, or the bundle itself (`load_exported`).
        utterances: at least one.
        int8: the bundle's int8 graphs.

    Raises:
        UserError: see `check_utterances`.
    """
    check_utterances(bundle, ours, utterances)
    if bundle.context.is_full:
        yield _compare_offline(SherpaOffline(bundle, int8=int8), ours, utterances, 1 if int8 else BATCH)
        return
    client, greedy = SherpaClient(bundle, int8=int8), _Greedy(ours)
    yield _compare_single(client, greedy, utterances)
    rules = client_rules(bundle)
    cutting = SherpaClient(bundle, int8=int8, enable_endpoint_detection=True)
    yield _compare_endpoints("greedy search", cutting, StreamingRecognizer(ours, endpoints=rules), utterances)
    if not int8:
        yield _compare_batched(client, greedy, utterances)
        method: dict[str, Any] = {"decoding_method": "modified_beam_search", "max_active_paths": BEAM}
        yield _compare_beam(SherpaClient(bundle, **method), ours, utterances)
        cutting = SherpaClient(bundle, enable_endpoint_detection=True, **method)
        search = StreamingRecognizer(ours, search=BeamOptions(beam=BEAM), endpoints=rules)
        yield _compare_endpoints(_BEAM_SEARCH, cutting, search, utterances)


def check_utterances(bundle: BundleFolder, ours: Recognizable, utterances: Sequence[Clip]) -> None:
    """Refuse what cannot be compared.

    Raises:
        UserError: no utterances, two with the same id, or `ours` has another context than the bundle.
    """
    if not utterances:
        raise UserError("no utterances to compare")
    counts = Counter(spoken.id for spoken in utterances)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"utterance {min(twice)} is there twice: name each manifest once")
    if ours.context != bundle.context:
        raise UserError(f"{bundle.folder}: exported under '{bundle.context}', compared with '{ours.context}'")


def count_identical(comparisons: Sequence[Comparison]) -> tuple[int, int]:
    """Utterances that came out identical in every comparison, and all of them."""
    utterances = {utterance for comparison in comparisons for utterance in comparison.identical}
    bad = {name for comparison in comparisons for name, good in comparison.identical.items() if not good}
    return len(utterances - bad), len(utterances)


def _compare_single(client: SherpaClient, ours: "_Greedy", utterances: Sequence[Clip]) -> Comparison:
    comparison = Comparison("greedy search, one stream")
    for spoken in utterances:
        ours.add_to(comparison, spoken, client.decode(spoken.samples_N))
    return comparison


def _compare_batched(client: SherpaClient, ours: "_Greedy", utterances: Sequence[Clip]) -> Comparison:
    comparison = Comparison("greedy search, two streams in a batch")
    for pair in _groups(utterances, 2):
        segments = client.decode_together([spoken.samples_N for spoken in pair])
        for spoken, segment in zip(pair, segments, strict=True):
            ours.add_to(comparison, spoken, segment)
    return comparison


def _compare_offline(
    client: SherpaOffline, ours: Recognizable, utterances: Sequence[Clip], batch_size: int
) -> Comparison:
    """Whole utterances, with the silence behind them that our recognizer adds."""
    comparison = Comparison(f"greedy search, whole utterances, {batch_size} in a batch")
    recognizer = StreamingRecognizer(ours)
    heard = [spoken for spoken in utterances if num_feature_frames(len(spoken.source)) >= SHORTEST]
    for group in _groups(heard, batch_size):
        waves = [_with_silence(recognizer, spoken.samples_N) for spoken in group]
        theirs = client.decode_together(waves)
        results = recognize_offline(recognizer, [spoken.samples_N for spoken in group])
        for spoken, wave_N, pieces, result in zip(group, waves, theirs, results, strict=True):
            # We search no frame that a stream of the same length would not have.
            frames = recognizer.geometry.streamed_frames(num_feature_frames(len(wave_N)))
            pieces = [item for item in pieces if item.frame < frames]
            own = [ClientPiece.of_ours(token.piece, token.frame) for token in result.tokens]
            comparison.add([spoken], [Segment(pieces, 1)], [Segment(own, 1)])
    return comparison


def _with_silence(recognizer: StreamingRecognizer, samples_N: Samples) -> Samples:
    """A recording and as many zero samples as make the feature frames that our recognizer makes of it.

    Under a full context every frame sees all of them, so one more or less changes the whole.
    """
    features_TF = whole_features(SAMPLE_RATE, samples_N, recognizer.geometry, recognizer.tail_seconds)
    missing = len(features_TF) - num_feature_frames(len(samples_N))
    return np.concatenate([samples_N, np.zeros(missing * FRAME_SHIFT_SAMPLES, dtype=np.float32)])


class _Greedy:
    """Our greedy search on single streams; the two ways of comparing it ask for the same."""

    def __init__(self, ours: Recognizable) -> None:
        self._recognizer = StreamingRecognizer(ours)
        self._known: dict[tuple[str, int], Segment] = {}

    def add_to(self, comparison: Comparison, spoken: Clip, segment: Segment) -> None:
        """Compare what sherpa-onnx has decoded of an utterance."""

        def decode(recognizer: StreamingRecognizer) -> list[Segment]:
            stream = decode_windows(recognizer, spoken.samples_N, segment.num_windows)
            return [Segment(emissions_of(recognizer, stream), segment.num_windows)]

        key = spoken.id, segment.num_windows
        if key not in self._known:
            (self._known[key],) = decode(self._recognizer)
        comparison.add(
            [spoken],
            [segment],
            [self._known[key]],
            partial(ties_between, self._recognizer, [segment], decode),
        )


def _compare_endpoints(
    name: str, client: SherpaClient, recognizer: StreamingRecognizer, utterances: Sequence[Clip]
) -> Comparison:
    """Utterances in one stream; where it is cut, each of the two decides by itself."""
    comparison = Comparison(f"{name}, endpoint resets")
    for group in _groups(utterances, 1 + len(PAUSES)):
        parts = [group[0].samples_N]
        for pause, spoken in zip(PAUSES, group[1:], strict=True):
            parts += [np.zeros(round(pause * SAMPLE_RATE), dtype=np.float32), spoken.samples_N]
        samples_N = np.concatenate(parts)
        theirs = client.decode_segments(samples_N)
        num_windows = sum(segment.num_windows for segment in theirs)
        decode = partial(decode_segments, samples_N=samples_N, num_windows=num_windows)
        if isinstance(recognizer.search.options, BeamOptions):
            find_ties = partial(_beam_ties, recognizer, theirs, decode)
        else:
            find_ties = partial(ties_between, recognizer, theirs, decode)
        comparison.add(group, theirs, decode(recognizer), find_ties)
    return comparison


def _beam_ties(
    recognizer: StreamingRecognizer,
    theirs: Sequence[Segment],
    decode: Callable[..., list[Segment]],
) -> list[str] | None:
    """The segments that end with a tie, a line each; None when something else differs (`ties_between`).

    What follows a segment does not depend on which of its hypotheses counts as the best, unless one of them
    has no pieces; what differs then counts as different.
    """
    ties: list[str] = []
    segments = iter(theirs)

    def chosen(recognizer: StreamingRecognizer, stream: Stream) -> list[ClientPiece]:
        own, their = segment_of(recognizer, stream), next(segments, None)
        if their is None or own == their.emissions or not _is_tie(recognizer, stream, their.emissions):
            return own
        place = next(place for place, segment in enumerate(theirs, 1) if segment is their)
        ties.append(f"segment {place}: sherpa-onnx {_show(their.emissions)} / kdasr {_show(own)}")
        return their.emissions

    return ties if decode(recognizer, shown=chosen) == list(theirs) else None


def _compare_beam(client: SherpaClient, ours: Recognizable, utterances: Sequence[Clip]) -> Comparison:
    comparison = Comparison(f"{_BEAM_SEARCH}, one stream")
    recognizer = StreamingRecognizer(ours, search=BeamOptions(beam=BEAM))
    for spoken in utterances:
        segment = client.decode(spoken.samples_N)
        stream = decode_windows(recognizer, spoken.samples_N, segment.num_windows)
        own = Segment(emissions_of(recognizer, stream), segment.num_windows)
        comparison.add([spoken], [segment], [own], partial(_tie, recognizer, stream, segment))
    return comparison


def _tie(recognizer: StreamingRecognizer, stream: Stream, theirs: Segment) -> list[str] | None:
    """The line about a tie in which the stream ends, if it does (`_is_tie`)."""
    if not _is_tie(recognizer, stream, theirs.emissions):
        return None
    own = emissions_of(recognizer, stream)
    return [f"sherpa-onnx {_show(theirs.emissions)} / kdasr {_show(own)}"]


def _is_tie(recognizer: StreamingRecognizer, stream: Stream, theirs: Sequence[ClientPiece]) -> bool:
    """Whether their hypothesis, frames included, is another of ours with the score of our best one."""
    best, *others = recognizer.nbest(stream)
    for other in others:
        if _emissions(recognizer, other) == theirs:
            return abs(_score_per_piece(best) - _score_per_piece(other)) <= TIE
    return False


def _emissions(recognizer: StreamingRecognizer, hypothesis: NBest) -> list[ClientPiece]:
    pieces = map(recognizer.tokenizer.piece, hypothesis.tokens)
    return [ClientPiece.of_ours(piece, frame) for piece, frame in zip(pieces, hypothesis.frames, strict=True)]


def _score_per_piece(hypothesis: NBest) -> float:
    return hypothesis.score / max(1, len(hypothesis.tokens))


def _groups(utterances: Sequence[Clip], size: int) -> Iterator[list[Clip]]:
    """Each utterance in one group; the last group is filled up with the first utterances."""
    for start in range(0, len(utterances), size):
        yield [utterances[index % len(utterances)] for index in range(start, start + size)]


def _difference(theirs: Segment | None, ours: Segment | None) -> str:
    if theirs is None or ours is None:
        return f"only {'kdasr' if theirs is None else 'sherpa-onnx'} has it"
    if theirs.num_windows != ours.num_windows:
        return f"sherpa-onnx ends it after window {theirs.num_windows}, kdasr after {ours.num_windows}"
    return f"sherpa-onnx {_show(theirs.emissions)} / kdasr {_show(ours.emissions)}"


def _show(emissions: Sequence[ClientPiece]) -> str:
    return " ".join(f"{piece}@{frame}" for piece, frame in emissions) or "nothing"
