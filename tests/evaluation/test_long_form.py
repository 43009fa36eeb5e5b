"""Streams that go on: what is scored, per utterance, per minute and in all."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import tone_spotter
from streaming_helpers import PIECES, bursts, make_recognizer
from tone_spotter import WORDS, make_spotter, spoken

from kdasr.common.errors import UserError
from kdasr.common.ranks import Ranks
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.joining import Pause, pauses
from kdasr.evaluation.latency import RefWord
from kdasr.evaluation.long_form import Placed, placed, score_stream
from kdasr.evaluation.long_form_run import STREAMS, LongForm, decode_long_form, forget
from kdasr.evaluation.long_form_summary import summarize_streams
from kdasr.evaluation.record_file import RecordFile
from kdasr.evaluation.wer import count_errors, word_errors
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.result import Result, Token
from kdasr.recognition.sources import FileSource

FRAME_SECONDS = 0.04
KINDS = ("sub", "ins", "del", "words")


def tones(number: int, aligned: bool = True) -> list[Recording]:
    """Utterances of three tones and 80 ms of silence, as long as a multiple of 80 ms."""
    recordings = []
    for index in range(number):
        words = [(index + place) % 4 for place in range(3)]
        samples = np.concatenate([spoken(words, [3840, 5120, 6400]), np.zeros(1280, np.float32)])
        ends = list(accumulate([3840, 5120, 6400], lambda end, length: end + 6400 + length, initial=-6400))[
            1:
        ]
        times = zip(words, ends, [3840, 5120, 6400], strict=True)
        ref_words = [
            RefWord(WORDS[w], (end - length + 6400) / 16000, (end + 6400) / 16000) for w, end, length in times
        ]
        ref = [word.word for word in ref_words]
        recordings.append(Recording(f"tones-{index}", samples, ref, ref_words if aligned else []))
    return recordings


def run(recognizer: Any, recordings: list[Recording], options: LongForm, folder: Path, **more: Any) -> Any:
    loads = [lambda recording=recording: recording for recording in recordings]
    return decode_long_form(recognizer, loads, options, folder, options.settings(EndpointRules()), **more)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_perfect_recognizer_is_perfect_in_every_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aligned: bool
) -> None:
    monkeypatch.setattr(tone_spotter, "_LOUD", 0.0)  # above the noise of pauses
    recordings = tones(6, aligned)
    assert {len(recording.samples_N) % 1280 for recording in recordings} == {0}
    recognizer = make_spotter(Context(left=4, chunk=2))
    options = LongForm(pauses([0.0, 0.32, 0.96, 3.2]), minutes=0.2)
    conditions = run(recognizer, recordings, options, tmp_path)
    assert len(conditions) == 14
    assert {condition["num_streams"] for condition in conditions} == {2, 3}
    for condition in conditions:
        assert (condition["wer"], condition["single_wer"], condition["words"]) == (0.0, 0.0, 18)
        assert (condition["shifted_wer"], condition["shifted_increase"]) == (0.0, 0.0)
        assert condition["first_word_coverage"] == condition["single_first_word_coverage"] == 1.0
        assert condition["num_first_word_pairs"] == 6
        # On the grid of chunks, a word is shown as soon as in a stream of its own.
        assert condition["first_word_ms"] == condition["single_first_word_ms"]
        assert condition["first_word_later_ci"] == [0.0, 0.0]
        assert condition["onset"] == ("alignment" if aligned else "energy")
        assert condition["emission_delay_ms"]["count"] == (18 if aligned else 0)
        # A reset between any two utterances, after 1.2 s without a piece.
        resets = condition["endpoints"] and condition["gap_s"] > 0.9
        assert condition["num_segments"] == (6 if resets else condition["num_streams"])
    # A spotter says a tone in the first two frames without it.
    first = conditions[0]["first_word_ms"]
    assert 240 < first["mean"] < 240 + 1000 * (2 + 2 + 2) * FRAME_SECONDS
    lines = [json.loads(line) for line in (tmp_path / STREAMS).read_text().splitlines()]
    assert len(lines) == sum(condition["num_streams"] for condition in conditions)
    said = [
        word["word"] for line in lines[:1] for utterance in line["utterances"] for word in utterance["words"]
    ]
    assert said == [word for utterance in recordings[: len(said) // 3] for word in utterance.ref]


def utterances(number: int, seconds: float = 4.0, pause: float = 1.0) -> list[Placed]:
    """Three words each, one a second from the first second on."""
    found = []
    for index in range(number):
        ref = ["A", "B", "CD" if index % 2 else "GH"]
        words = [RefWord(word, 1.0 + place, 1.5 + place) for place, word in enumerate(ref)]
        one = Placed(f"u{index}", 0.0, seconds, ref, words, 1.0, aligned=True)
        found.append(one.moved(index * (seconds + pause)))
    return found


def result(*words: tuple[str, float]) -> Result:
    """Words that are emitted in one frame at the given second, and shown 0.2 s later."""
    tokens = [
        Token(place, f"\u2581{word}", round(at / FRAME_SECONDS), at + 0.2, -0.1, -0.1)
        for place, (word, at) in enumerate(words)
    ]
    return Result(tokens, is_final=True, frame_seconds=FRAME_SECONDS)


def errors(record: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(utterance["errors"][kind] for kind in KINDS) for utterance in record["utterances"]]


@pytest.mark.parametrize("seed", range(4))
def test_errors_of_utterances_and_of_minutes_add_up_to_the_stream(seed: int) -> None:
    random = np.random.default_rng(seed)
    said = utterances(30)
    heard = [
        (str(random.choice(["A", "B", "CD", "X"])) if random.random() < 0.3 else word.word, word.end + 0.1)
        for one in said
        for word in one.ref_words
        if random.random() < 0.7
    ]
    heard += [("A", float(at)) for at in random.uniform(0, 149, 9)]
    heard.sort(key=lambda item: item[1])
    record = score_stream(said, result(*heard))
    ref = " ".join(word for one in said for word in one.ref)
    total = word_errors(ref, " ".join(word for word, _ in heard)).total
    for parts in (record["utterances"], [{"errors": minute} for minute in record["minutes"]]):
        counts = {kind: sum(part["errors"][kind] for part in parts) for kind in KINDS}
        assert counts["sub"] + counts["ins"] + counts["del"] == total
        assert counts["words"] == 90
    assert len(record["minutes"]) == 3
    assert [word["word"] for one in record["utterances"] for word in one["words"]] == [
        word for word, _ in heard
    ]
    assert sum(word["correct"] for one in record["utterances"] for word in one["words"]) == (
        90 - sum(one["errors"]["sub"] + one["errors"]["del"] for one in record["utterances"])
    )


def test_a_lost_utterance_is_the_one_that_was_lost() -> None:
    said = utterances(3)
    heard = [(word.word, word.end + 0.1) for one in (said[0], said[2]) for word in one.ref_words]
    record = score_stream(said, result(*heard))
    assert errors(record) == [(0, 0, 0, 3), (0, 0, 3, 3), (0, 0, 0, 3)]
    assert [one["first_word_ms"] for one in record["utterances"]] == [
        pytest.approx(1000 * (0.5 + 0.1 + 0.2), abs=45),
        None,
        pytest.approx(1000 * (0.5 + 0.1 + 0.2), abs=45),
    ]


def test_an_insertion_counts_to_the_utterance_in_which_it_was_emitted() -> None:
    said = utterances(3)
    right = [(word.word, word.end + 0.1) for one in said for word in one.ref_words]
    for at, expected in (
        (0.4, [1, 0, 0]),
        (4.7, [1, 0, 0]),
        (5.3, [0, 1, 0]),
        (9.0, [0, 1, 0]),
        (14.9, [0, 0, 1]),
    ):
        heard = sorted([*right, ("X", at)], key=lambda item: item[1])
        record = score_stream(said, result(*heard))
        assert [one[1] for one in errors(record)] == expected, at
        assert count_errors([]).total == sum(one[0] + one[2] for one in errors(record))


def test_a_word_far_from_where_it_was_said_is_no_latency() -> None:
    said = utterances(1)
    for at, near in ((0.9, False), (1.1, True), (3.4, True), (3.7, False)):
        record = score_stream(said, result(("A", at)))
        assert record["utterances"][0]["errors"]["del"] == 2
        assert (record["utterances"][0]["first_word_ms"] is not None) == near, at
        assert len(record["utterances"][0]["emission_delay_ms"]) == near


def test_minutes_are_those_of_the_stream() -> None:
    said = utterances(30)
    record = score_stream(said, result())
    assert [minute["del"] for minute in record["minutes"]] == [36, 36, 18]
    with_late = score_stream(said, result(("X", 148.9)))
    assert [minute["sub"] + minute["ins"] for minute in with_late["minutes"]][:2] == [0, 0]


def test_a_word_that_begins_before_its_stream_is_of_the_first_minute() -> None:
    """Aligners round, so that a time may lie a little before the begin."""
    early = replace(utterances(1)[0], end=150.0, ref_words=[RefWord(word, -0.05, 0.3) for word in "ABC"])
    assert [minute["del"] for minute in score_stream([early], result())["minutes"]] == [3, 0, 0]


def test_a_summary_adds_streams_and_pairs_them_with_single_utterances() -> None:
    said = utterances(160)
    single = {one["id"]: one for u in said for one in score_stream([u], right(u))["utterances"]}
    lost = [(word.word, word.end + 0.1) for one in said[:80] for word in one.ref_words]
    record = {"segments": [0.0], **score_stream(said, result(*lost))}
    silent = {one["id"]: one for u in said for one in score_stream([u], result())["utterances"]}
    summary = summarize_streams([record], single, silent)
    assert (summary["wer"], summary["single_wer"], summary["wer_increase"]) == (50.0, 0.0, 50.0)
    assert (summary["shifted_wer"], summary["shifted_increase"]) == (100.0, -50.0)
    assert (summary["deletions"], summary["substitutions"], summary["words"]) == (240, 0, 480)
    assert summary["relative_increase"] is None and summary["first_word_coverage"] == 0.5
    assert summary["wer_increase_ci"][0] < 50 < summary["wer_increase_ci"][1]
    assert sum(minute["deletions"] for minute in summary["wer_by_minute"]) == 240
    assert sum(minute["words"] for minute in summary["wer_by_minute"]) == 480
    assert [minute["minute"] for minute in summary["wer_by_minute"]] == list(range(1, 15))
    assert summary["ends"]["first_wer"] == 0.0 and summary["ends"]["last_wer"] == 100.0
    assert summary["ends"]["difference_ci"] == [100.0, 100.0]
    json.dumps(summary, allow_nan=False)


def right(utterance: Placed) -> Result:
    return result(*((word.word, word.end + 0.1) for word in utterance.ref_words))


def test_a_stream_in_which_nothing_is_said_has_insertions_and_no_rate(tmp_path: Path) -> None:
    silent = [Recording(f"silent-{i}", np.zeros(48_000, np.float32), [], []) for i in range(2)]
    for recognizer in (make_spotter(Context(4, 2)), make_recognizer(Context(8, 4))):
        folder = tmp_path / type(recognizer.model).__name__
        (condition, _) = run(recognizer, silent, LongForm([Pause(3.0, "silence")]), folder)
        assert (condition["wer"], condition["words"], condition["deletions"]) == (None, 0, 0)
        assert condition["first_word_coverage"] is None and condition["wer_ci"] == [None, None]
        assert (condition["insertions"] > 0) == (recognizer.tokenizer.piece(3) in PIECES)
        json.dumps(condition, allow_nan=False)
    assert placed(Recording("silent", np.zeros(48_000, np.float32), ["A"], [])).onset is None


class StoppedError(Exception):
    pass


def test_records_are_there_again_up_to_one_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    records = [{"id": name, "ref": f"A\u2028B\u0085{name}Ü"} for name in "xyz"]
    RecordFile(path, lambda record: record["id"]).add(records)
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])  # in the middle of the last letter
    again = RecordFile(path, lambda record: record["id"])
    assert list(again.records.values()) == records[:2]
    again.add(records[2:])
    assert path.read_bytes() == whole


def test_a_run_that_was_stopped_goes_on_and_another_one_starts_anew(tmp_path: Path) -> None:
    recordings = [
        Recording(f"r{i}", bursts(1.5, i), ["A", "CD"], [RefWord("A", 0.2, 0.5), RefWord("CD", 0.6, 0.9)])
        for i in range(5)
    ]
    options = LongForm(pauses([0.0, 0.5]), minutes=0.06, batch=2)
    whole = run(make_recognizer(Context(8, 4)), recordings, options, tmp_path / "whole")
    folder = tmp_path / "stopped"

    def stop_after(number: int) -> Any:
        def wrap(items: Iterator[Any], total: int) -> Iterator[Any]:
            yield from islice(items, number) if total > 5 else items
            if total > 5:
                raise StoppedError

        return wrap

    for _ in range(2):
        with pytest.raises(StoppedError):
            run(make_recognizer(Context(8, 4)), recordings, options, folder, wrap=stop_after(3))
    text = (folder / STREAMS).read_text()
    assert 0 < text.count("\n") < 18
    (folder / STREAMS).write_text(text + text[:40])  # cut short in the middle of a line
    recognizer = make_recognizer(Context(8, 4))
    assert run(recognizer, recordings, options, folder) == whole
    lines = (folder / STREAMS).read_text().splitlines()
    assert text.splitlines() == lines[: text.count("\n")] and len(lines) == 18
    marked = (folder / STREAMS).read_text().replace('"A', '"B')
    (folder / STREAMS).write_text(marked)
    run(recognizer, recordings, options, folder)
    assert (folder / STREAMS).read_text() == marked
    run(recognizer, recordings, replace(options, seed=2), folder)
    assert (folder / STREAMS).read_text() != marked
    (folder / STREAMS).write_text(marked)
    forget(folder)
    run(recognizer, recordings, replace(options, seed=2), folder)
    assert (folder / STREAMS).read_text() != marked


def test_streams_of_other_utterances_are_decoded_again(tmp_path: Path) -> None:
    """A recording that could not be read at first, as without a codec, is in a stream of the second call."""
    recordings, recognizer = tones(4), make_spotter(Context(left=4, chunk=2))
    options = LongForm(pauses([0.32]), minutes=0.05)
    whole = run(recognizer, recordings, options, tmp_path / "whole")
    run(recognizer, recordings[1:], options, tmp_path / "again")
    assert run(recognizer, recordings, options, tmp_path / "again") == whole
    for name in ("single.jsonl", STREAMS):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_one_process_ends_what_several_have_begun(tmp_path: Path) -> None:
    recordings, recognizer = tones(3), make_spotter(Context(left=4, chunk=2))
    options = LongForm(pauses([0.32]), minutes=0.05, batch=1)
    whole = run(recognizer, recordings, options, tmp_path / "whole")
    folder = tmp_path / "shared"
    assert run(recognizer, recordings, replace(options, ranks=Ranks(0, 2)), folder) is None
    assert (folder / f"{STREAMS}.partial-0").read_text()
    assert run(recognizer, recordings, options, folder) == whole
    lengths = [
        {path.name: path.read_text().count("\n") for path in place.iterdir()}
        for place in (tmp_path / "whole", folder)
    ]
    assert lengths[0] == lengths[1]


def test_a_recording_that_is_read_as_it_is_heard_gives_what_one_in_memory_does(tmp_path: Path) -> None:
    """Recordings of more than five minutes are never in memory as a whole."""
    recordings, read = tones(3), []
    for recording in recordings:
        path, samples_N = tmp_path / f"{recording.id}.wav", recording.samples_N[:]
        soundfile.write(path, samples_N, 16000, subtype="FLOAT")
        read.append(replace(recording, samples_N=FileSource(path, 0, len(samples_N))))
    recognizer, options = make_spotter(Context(left=4, chunk=2)), LongForm(pauses([0.32]), minutes=0.2)
    in_memory, as_heard = (
        run(recognizer, some, options, tmp_path / name) for name, some in (("a", recordings), ("b", read))
    )
    assert in_memory == as_heard and in_memory[0]["words"] == 9


def test_long_form_needs_a_chunked_context(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chunk by chunk"):
        run(make_recognizer(Context.full()), tones(1), LongForm([Pause()]), tmp_path)
