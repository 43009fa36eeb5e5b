"""sherpa-onnx against our own recognizer on streams that go on: many utterances with pauses between them."""

# Shapes: N samples at 16 kHz.

from collections.abc import Iterator, Sequence
from functools import partial

from kdasr.common.errors import UserError
from kdasr.evaluation.joining import Pause, join, plan_streams
from kdasr.evaluation.long_form_run import LongForm
from kdasr.export.bundle import BundleFolder
from kdasr.export.check import Clip, Comparison, check_utterances
from kdasr.export.client import Samples, Segment, SherpaClient
from kdasr.export.reference import client_rules, decode_segments, decode_windows, emissions_of
from kdasr.export.ties import ties_between
from kdasr.recognition.recognizable import Recognizable
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.sources import Piece


def compare_long_form(
    bundle: BundleFolder,
    ours: Recognizable,
    utterances: Sequence[Clip],
    options: LongForm,
    *,
    int8: bool = False,
) -> Iterator[Comparison]:
    """Join utterances into streams as `kdasr decode --long-form` does, and decode each by both, greedily.

    With endpoints, each of the two decides where a segment ends, and ours begins the next one as sherpa-onnx
    does (`keep_predictor`). An utterance is identical when every piece of its stream is.

    Args:
        bundle: what sherpa-onnx runs.
        ours: the PyTorch model that was exported, or the bundle itself (`load_exported`).
        utterances: at least one, in the order in which they are joined.
        options: pauses, length of streams, and whether with endpoints, without, or both.
        int8: the bundle's int8 graphs.

    Yields:
        A comparison per pause and way.

    Raises:
        UserError: graphs for whole utterances; also see `check_utterances`.
    """
    if bundle.context.is_full:
        raise UserError(f"{bundle.folder}: exported for whole utterances: leave out --long-form")
    check_utterances(bundle, ours, utterances)
    rules = {False: None, True: client_rules(bundle)}
    for pause in options.pauses:
        for endpoints in options.endpoints:
            client = SherpaClient(bundle, int8=int8, enable_endpoint_detection=endpoints)
            recognizer = StreamingRecognizer(ours, endpoints=rules[endpoints])
            way = "endpoint resets" if endpoints else "no endpoints"
            comparison = Comparison(f"greedy search, long streams, {pause}, {way}")
            for spoken, samples_N in _streams(utterances, pause, options):
                theirs = client.decode_segments(samples_N) if endpoints else [client.decode(samples_N)]
                num_windows = sum(segment.num_windows for segment in theirs)
                decode = partial(_decode, samples_N=samples_N, num_windows=num_windows, endpoints=endpoints)
                find_ties = partial(ties_between, recognizer, theirs, decode)
                comparison.add(spoken, theirs, decode(recognizer), find_ties)
            yield comparison


def _decode(
    recognizer: StreamingRecognizer, samples_N: Samples, num_windows: int, endpoints: bool
) -> list[Segment]:
    """What our recognizer says of a stream."""
    if endpoints:
        return decode_segments(recognizer, samples_N, num_windows)
    stream = decode_windows(recognizer, samples_N, num_windows)
    return [Segment(emissions_of(recognizer, stream), num_windows)]


def _streams(
    utterances: Sequence[Clip], pause: Pause, options: LongForm
) -> Iterator[tuple[list[Clip], Samples]]:
    """The utterances of each stream, and what it holds, (N,)."""
    lengths = [len(spoken.source) for spoken in utterances]
    for number, members in enumerate(plan_streams(lengths, pause, options.minutes)):
        spoken = [utterances[member] for member in members]
        pieces = [Piece(len(one.source), lambda one=one: one.samples_N) for one in spoken]  # type: ignore[misc]
        yield spoken, join(pieces, pause, [options.seed, number]).source[:]
