"""A real client: sherpa-onnx decodes the exported students, and hears what we hear."""

import itertools
import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from export_helpers import bursts, client_log_mel, save_student, write_cuts

from kdasr.cli.export import command
from kdasr.common.errors import UserError
from kdasr.data.features import num_feature_frames
from kdasr.decoding.expansion import BeamOptions
from kdasr.export import check
from kdasr.export.check import Clip, Comparison, compare_with_sherpa, count_identical
from kdasr.export.client import ClientPiece, Segment, SherpaClient
from kdasr.export.reference import decode_segments, decode_windows, emissions_of
from kdasr.export.runtime import load_exported
from kdasr.export.ties import TIE, ties_between
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import RULES, EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.stream import Stream

UTTERANCES = [Clip(f"utterance-{seed}", bursts(1.3 + seed / 3, seed), "ONE") for seed in range(5)]
WAYS = [
    "greedy search, one stream",
    "greedy search, endpoint resets",
    "greedy search, two streams in a batch",
    "modified beam search (4), one stream",
    "modified beam search (4), endpoint resets",
]


def compare(bundle, ours, int8: bool = False) -> list[Comparison]:
    found = list(compare_with_sherpa(bundle, ours, UTTERANCES, int8=int8))
    for comparison in found:
        assert comparison.differences == [], comparison.name
        assert comparison.num_pieces > 30, comparison.name
        assert comparison.ties == [], comparison.name
    assert count_identical(found) == (5, 5)
    return found


def test_the_client_hears_what_the_pytorch_student_hears(student) -> None:
    found = compare(student.bundle, student.system)
    assert [comparison.name for comparison in found] == WAYS
    # Two groups of four utterances, with endpoints after the second and after the third; the last group is
    # filled up.
    for resets in (found[1], found[4]):
        assert resets.num_resets >= 4 and resets.errors.words == 8
    assert found[0].num_resets == 0 and found[0].errors.words == 5


@pytest.mark.parametrize("lengths", [(0, 1, 79, 80, 81), (79, 40), (1,)])
def test_utterances_of_a_few_samples_are_compared_too(student, lengths: tuple[int, ...]) -> None:
    """Below 80 samples there is no frame, and sherpa-onnx ends the process at a batch of nothing."""
    short = [Clip(f"short-{count}", bursts(1.0, count)[:count]) for count in lengths]
    found = list(compare_with_sherpa(student.bundle, student.system, short))
    assert [comparison.name for comparison in found] == WAYS
    assert count_identical(found) == (len(short), len(short))


def test_also_with_lookahead_and_without_left_context(other) -> None:
    compare(other.bundle, load_exported(other.bundle.folder))


def test_the_client_runs_int8_graphs_and_hears_nearly_the_same(student) -> None:
    """Two versions of onnxruntime round differently, and a random model's pieces are close to each other."""
    parts = load_exported(student.bundle.folder, int8=True)
    found = list(compare_with_sherpa(student.bundle, parts, UTTERANCES, int8=True))
    assert [comparison.name for comparison in found] == WAYS[:2]
    client, recognizer = SherpaClient(student.bundle, int8=True), StreamingRecognizer(parts)
    shared = total = 0
    for spoken in UTTERANCES:
        theirs = client.decode(spoken.samples_N)
        stream = decode_windows(recognizer, spoken.samples_N, theirs.num_windows)
        ours = emissions_of(recognizer, stream)
        shared += len(set(ours) & set(theirs.emissions))
        total += len(set(ours) | set(theirs.emissions))
    assert shared > 0.8 * total > 30


@pytest.mark.parametrize("beam", [None, 4], ids=["greedy", "beam"])
@pytest.mark.parametrize(
    "seconds",
    # The defaults; long speech that only rule 3 cuts, within words too; ties of 32-bit numbers everywhere.
    [(2.4, 1.2, 20.0), (1.2, 0.8, 1.6), (0.32, 0.16, 0.64)],
    ids=str,
)
def test_our_endpoints_and_segments_are_those_of_the_client(
    student, seconds: tuple[float, float, float], beam: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a segment without a piece the client forgets the pieces before it, but not at once what the
    predictor made of them; in beam search, what was said before competes with nothing.

    Random weights come close to ties, so both hear the client's features to the last bit.
    """
    monkeypatch.setattr("kdasr.recognition.features.log_mel", client_log_mel)
    rules = EndpointRules(*seconds, keep_predictor=True)
    method = {"decoding_method": "modified_beam_search", "max_active_paths": beam} if beam else {}
    times = {name: getattr(rules, name) for name in RULES}
    client = SherpaClient(student.bundle, enable_endpoint_detection=True, **times, **method)
    search = BeamOptions(beam=beam) if beam else None
    recognizer = StreamingRecognizer(student.system, endpoints=rules, search=search)
    after_nothing, lengths = 0, set()
    for seed in range(4):
        generator = np.random.default_rng(seed)
        parts = []
        for number in range(4):
            silence_N = np.zeros(int(generator.uniform(0, 7) * 16000), dtype=np.float32)
            parts += [bursts(generator.uniform(0.3, 3), 10 * seed + number), silence_N]
        samples_N = np.concatenate(parts)
        theirs = client.decode_segments(samples_N)
        assert decode_segments(recognizer, samples_N, sum(part.num_windows for part in theirs)) == theirs
        said = [bool(segment.emissions) for segment in theirs]
        after_nothing += sum(after and not before for before, after in itertools.pairwise(said))
        lengths |= {segment.num_windows for segment in theirs}
    assert len(lengths) > 2 and (after_nothing > 1 or beam)


def test_silence_alone_is_cut_as_the_client_cuts_it(student) -> None:
    client = SherpaClient(student.bundle, enable_endpoint_detection=True)
    recognizer = StreamingRecognizer(student.system, endpoints=EndpointRules(keep_predictor=True))
    silence_N = np.zeros(16000 * 12, dtype=np.float32)
    theirs = client.decode_segments(silence_N)
    # 61 frames are the first that are 2.4 s in 32 bits: 16 chunks. (This model says something at first.)
    assert [segment.num_windows for segment in theirs if not segment.emissions][:-1] == [16, 16, 16]
    assert decode_segments(recognizer, silence_N, sum(part.num_windows for part in theirs)) == theirs


def test_the_appended_silence_flushes_every_frame(student) -> None:
    client = SherpaClient(student.bundle)
    for num_samples in [*range(16000, 16000 + 17 * 160, 80), 100, 0]:
        frames = num_feature_frames(num_samples)
        segment = client.decode(np.zeros(num_samples, dtype=np.float32))
        # 4 encoder frames of 4 feature frames each: no window is missing, and at most two are silence.
        assert 0 <= 16 * segment.num_windows - frames <= 32


def test_another_model_is_told_apart(student, tmp_path: Path) -> None:
    stranger = save_student(tmp_path, student.bundle.context, seed=2)
    found = list(compare_with_sherpa(student.bundle, stranger, UTTERANCES[:3]))
    assert count_identical(found) == (0, 3)
    for comparison in found:
        assert not any(comparison.identical.values()), comparison.name
        assert "utterance-0" in comparison.differences[0]
    with pytest.raises(UserError, match="compared with 'left=4 chunk=4 right=0'"):
        list(compare_with_sherpa(student.bundle, save_student(tmp_path / "b", Context(4, 4)), UTTERANCES))
    with pytest.raises(UserError, match="no utterances"):
        list(compare_with_sherpa(student.bundle, stranger, []))
    with pytest.raises(UserError, match="utterance-1 is there twice"):
        list(compare_with_sherpa(student.bundle, stranger, [*UTTERANCES[:2], UTTERANCES[1]]))


def test_pieces_of_one_byte_are_compared_as_the_client_shows_them() -> None:
    """As sherpa-onnx 2.0.1 shows `tokens` of a model with byte fallback."""
    shown = {"<0x33>": "3", "<0x24>": "$", "<0x7E>": "~", "<0x07>": "<0x07>", "<0xE4>": "<0xE4>", "OW": "OW"}
    for piece, expected in shown.items():
        assert ClientPiece.of_ours(piece, 4) == ClientPiece(expected, 4)


def test_one_frame_or_piece_makes_an_utterance_differ() -> None:
    first, second = (Clip(name, np.zeros(0, dtype=np.float32)) for name in "ab")
    heard = [ClientPiece("A", 1), ClientPiece("B", 5)]
    for other in (
        [ClientPiece("A", 1), ClientPiece("B", 6)],
        [ClientPiece("A", 1), ClientPiece("C", 5)],
        heard[:1],
    ):
        comparison = Comparison("some way")
        comparison.add([first], [Segment(heard, 3)], [Segment(heard, 3)])
        assert comparison.identical == {"a": True}
        theirs, ours = ([Segment(heard, 3), Segment(last, 2)] for last in (heard, other))
        comparison.add([first, second], theirs, ours)
        assert comparison.identical == {"a": False, "b": False}
        assert len(comparison.differences) == 1 and "a+b, segment 2" in comparison.differences[0]
    # The last of an odd number was paired with the first, which now comes out well: that mends nothing.
    comparison.add([second, first], [Segment(heard, 3)], [Segment(heard, 3)])
    assert comparison.identical == {"a": False, "b": False}
    for ours in ([Segment(heard, 4)], [Segment(heard, 3), Segment([], 1)]):  # the same, but cut elsewhere
        elsewhere = Comparison("some way")
        elsewhere.add([first], [Segment(heard, 3)], ours)
        assert elsewhere.identical == {"a": False} and len(elsewhere.differences) == 1
    fine = Comparison("another way", identical={"b": True, "c": True})
    assert count_identical([comparison, fine]) == (1, 3)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_exports_and_checks(student, same_encoder, tmp_path: Path) -> None:
    save_student(tmp_path / "stranger", student.bundle.context, seed=2)
    # The same weights, of a system whose first context is another than the exported one.
    save_student(tmp_path / "twin", Context(left=4, chunk=4))
    cuts = write_cuts(tmp_path, [spoken.samples_N for spoken in UTTERANCES[:3]])
    exported = run(student.folder, "--out", tmp_path / "bundle")
    assert exported.exit_code == 0 and "encoder.onnx" in exported.output
    again = run(student.folder, "--out", tmp_path / "bundle")
    assert "already exported" in again.output
    for arguments, last, status in [
        ([], "3 of 3 utterances identical", 0),
        (["--against", student.folder], "3 of 3 utterances identical", 0),
        (["--against", tmp_path / "twin"], "3 of 3 utterances identical", 0),
        (["--against", tmp_path / "stranger"], "0 of 3 utterances identical", 1),
    ]:
        checked = run("--check", tmp_path / "bundle", cuts, *arguments)
        assert checked.output.splitlines()[-1] == last
        assert checked.exit_code == status
    (tmp_path / "bundle" / "decoder.onnx").unlink()
    broken = run("--check", tmp_path / "bundle", cuts)
    assert isinstance(broken.exception, UserError) and "decoder.onnx: missing" in str(broken.exception)


def test_a_tie_is_another_of_our_hypotheses_with_the_same_score(
    student, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = StreamingRecognizer(student.system, search=BeamOptions())
    stream = decode_windows(recognizer, UTTERANCES[0].samples_N, 3)
    best, second = recognizer.nbest(stream)[:2]
    theirs = [
        ClientPiece(recognizer.tokenizer.piece(token), frame)
        for token, frame in zip(second.tokens, second.frames, strict=True)
    ]
    gap = abs(best.score / len(best.tokens) - second.score / len(second.tokens))
    for tie, expected in ((0.9 * gap, False), (1.1 * gap, True)):
        monkeypatch.setattr(check, "TIE", tie)
        assert check._is_tie(recognizer, stream, theirs) is expected
    assert not check._is_tie(recognizer, stream, [*theirs[:-1], theirs[-1]._replace(frame=99)])
    assert not check._is_tie(recognizer, stream, emissions_of(recognizer, stream))


def _with_twins(student, first: int, second: int, gap: float) -> StreamingRecognizer:
    """A student whose `second` piece is always as likely as the `first`, but for a gap (nats)."""
    model = deepcopy(student.system.model)
    with torch.no_grad():
        model.joiner.output.weight[second] = model.joiner.output.weight[first]
        model.joiner.output.bias[second] = model.joiner.output.bias[first] - gap
    rules = EndpointRules(1.2, 0.8, 1.6, keep_predictor=True)
    return StreamingRecognizer(replace(student.system, model=model), endpoints=rules)


def test_greedy_search_is_compared_to_the_end_past_a_tie(student) -> None:
    samples_N = np.concatenate([bursts(3.0, 1), np.zeros(20000, dtype=np.float32), bursts(2.0, 2)])
    decode = partial(decode_segments, samples_N=samples_N, num_windows=30)
    plain = decode(_with_twins(student, 5, 5, 0.0))
    counts = Counter(piece for segment in plain for piece, _ in segment.emissions)
    pieces = list(map(student.system.tokenizer.piece, range(24)))
    common = max(range(3, 24), key=lambda index: counts[pieces[index]])
    twin = 3 if common != 3 else 4
    ours, theirs = (_with_twins(student, common, twin, gap) for gap in (0.1 * TIE, -0.1 * TIE))
    said = decode(theirs)
    assert len(said) > 2 and decode(ours) != said
    ties = ties_between(ours, said, decode)
    told = f"sherpa-onnx {re.escape(pieces[twin])} / kdasr {re.escape(pieces[common])}, scores (.*) apart"
    assert ties and float(re.search(told, ties[0])[1]) == pytest.approx(1e-4, rel=0.02)
    comparison = Comparison("some way")
    spoken = Clip("a", samples_N)
    comparison.add([spoken], said, decode(ours), lambda: ties)
    assert comparison.identical == {"a": True} and not comparison.differences
    assert comparison.ties[0].startswith("a, frame ") and f"{len(ties)} ties" in comparison.summary
    assert ties_between(_with_twins(student, common, twin, 10 * TIE), said, decode) is None
    # A tie hides nothing that follows it.
    index = max(place for place, segment in enumerate(said) if segment.emissions)
    *begin, last = said[index].emissions
    moved = replace(said[index], emissions=[*begin, last._replace(frame=last.frame + 1)])
    later = [*said[:index], moved, *said[index + 1 :]]
    assert ties_between(ours, later, decode) is None
    assert ties_between(ours, [*said[:-1], replace(said[-1], num_windows=1)], decode) is None
    comparison.add([spoken], later, decode(ours), partial(ties_between, ours, later, decode))
    assert comparison.identical == {"a": False} and comparison.differences


def test_a_segment_of_beam_search_may_end_in_a_tie(student, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = EndpointRules(1.2, 0.8, 1.6, keep_predictor=True)
    recognizer = StreamingRecognizer(student.system, search=BeamOptions(), endpoints=rules)
    decode = partial(decode_segments, samples_N=bursts(5.0, 1), num_windows=25)

    def second_best(recognizer: StreamingRecognizer, stream: Stream) -> list[ClientPiece]:
        return check._emissions(recognizer, recognizer.nbest(stream)[1])

    ours, others = decode(recognizer), decode(recognizer, shown=second_best)
    assert len(ours) > 2 and ours != others
    for tie, expected in ((0.0, None), (99.0, len(ours))):
        monkeypatch.setattr(check, "TIE", tie)
        ties = check._beam_ties(recognizer, others, decode)
        assert expected == (ties and len(ties))
    assert check._beam_ties(recognizer, others[:-1], decode) is None
