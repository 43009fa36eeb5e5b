"""Results in foreign formats: the same audio gives the same figures, and what does not parse says so."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from lhotse import AudioSource, CutSet, SupervisionSegment
from lhotse import Recording as LhotseRecording
from lhotse.cut import MonoCut, MultiCut
from lhotse.supervision import AlignmentItem

from kdasr.cli.latency import command
from kdasr.common.errors import UserError
from kdasr.evaluation import foreign
from kdasr.evaluation.evaluate import Recording, make_record
from kdasr.evaluation.foreign.base import read_hypotheses, words_of_pieces
from kdasr.evaluation.latency import RefWord
from kdasr.evaluation.timed_results import Display, read_references, score_hypothesis, score_system
from kdasr.recognition.result import Result, Token, join_segments
from kdasr.recognition.simulate import Simulation
from kdasr.testing import tone

assert foreign.__all__
ALIGNED = '1-2-0001 ",THE,CAT,SAT," "0.500,0.600,1.000,1.500,2.000"\n1-2-0002 ",YES," "0.300,0.800,1.000"\n'
HEARD = {
    "1-2-0001": [("the", 0.7, 0.9), ("cat", 1.1, 1.3), ("sad", 1.6, 1.9)],
    "1-2-0002": [("yes", 0.2, 0.4)],
}
"""The first word is right and then wrong; in the other one, "yes" begins before its onset."""


def _icefall(path: Path) -> None:
    lines = []
    for id, words in HEARD.items():
        lines += [f"{id}:\tref=['X']", f"{id}:\thyp={[word.upper() for word, _, _ in words]}"]
        times = ", ".join(f"({first:.3f}, {last:.03f})" for _, first, last in words)
        lines.append(f"{id}:\ttimestamp_hyp=[{times}]")
    path.write_text("\n".join(lines) + "\n")


def _nemo(path: Path) -> None:
    lines = []
    for id, words in HEARD.items():
        timed = [{"word": f"{word},", "start": first, "end": last} for word, first, last in words]
        lines.append({"audio_filepath": f"/data/{id}.wav", "pred_text": "...", "timestamps_word": timed})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _sherpa(path: Path) -> None:
    lines = []
    for id, words in HEARD.items():
        lines += [f"/data/{id}.wav", "Elapsed seconds: 0.1"]
        tokens = [piece for word, _, _ in words for piece in (f" {word[0]}", word[1:])]
        times = [time - 0.25 for _, first, last in words for time in (first, last)]
        lines.append(json.dumps({"text": "...", "tokens": tokens, "timestamps": times, "start_time": 0.25}))
    path.write_text("\n".join(lines) + "\n")


def _ctm(path: Path) -> None:
    lines = [";; a comment"]
    for id, words in HEARD.items():
        lines += [f"{id} 1 {first:.2f} {last - first:.2f} {word} 0.9" for word, first, last in words]
    path.write_text("\n".join(lines) + "\n")


def _kdasr(path: Path) -> None:
    lines = []
    for id, words in HEARD.items():
        pieces = [
            piece
            for word, first, last in words
            for piece in ({"piece": f"▁{word[0]}", "shown": first}, {"piece": word[1:], "shown": last})
        ]
        lines.append({"id": id, "tokens": pieces})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


WRITERS = {"icefall": _icefall, "nemo": _nemo, "sherpa": _sherpa, "ctm": _ctm, "kdasr": _kdasr}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_figures(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.alignment.txt").write_text(ALIGNED)
    WRITERS[name](tmp_path / "heard")
    arguments = ["--format", name, str(tmp_path / "a.alignment.txt"), str(tmp_path / "heard")]
    result = CliRunner().invoke(command, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    (found,) = json.loads((tmp_path / "out" / "summary.json").read_text())["systems"]
    assert (found["num_utterances"], found["num_words"]) == (2, 4)
    assert found["wer"] == pytest.approx(25.0)
    # THE is complete at 0.9 s, 0.4 s after its onset; YES is complete 0.1 s after its onset.
    assert found["first_word_ms"]["mean"] == pytest.approx(250.0)
    assert found["first_word_ms"]["coverage"] == 1.0
    assert found["first_tokens"] == {"right": 0.5, "wrong": 0, "premature": 0.5, "missing": 0, "count": 2}
    assert found["first_token_ms"]["mean"] == pytest.approx((200.0 - 100.0) / 2)
    assert found["emission_delay_ms"]["mean"] == pytest.approx((300.0 + 300.0 - 400.0) / 3)
    assert found["finalization_ms"]["count"] == 1  # SAT was not recognized
    assert found["finalization_ms"]["mean"] == pytest.approx(-400.0)


def test_a_system_whose_words_come_later_is_said_to_be_later(tmp_path: Path) -> None:
    (tmp_path / "a.alignment.txt").write_text(ALIGNED)
    early, late = tmp_path / "early.jsonl", tmp_path / "late.jsonl"
    _kdasr(early)
    lines = [json.loads(line) for line in early.read_text().splitlines()]
    for token in (token for line in lines for token in line["tokens"]):
        token["shown"] += 0.1
    late.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for first, second, said in ((early, late, "100 ms later than"), (late, early, "100 ms earlier than")):
        arguments = ["--format", "kdasr", str(tmp_path / "a.alignment.txt"), str(first), str(second)]
        assert f"first word {said}" in CliRunner().invoke(command, arguments).output
    lines = [{**line, "tokens": [], "words": [], "hyp": ""} for line in lines]
    late.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = CliRunner().invoke(command, [*arguments[:3], str(early), str(late)]).output
    assert "no utterance of which both early.jsonl and it have the first word right" in said
    assert "nan" not in said


def test_words_of_our_own_results_end_at_endpoints(tmp_path: Path) -> None:
    """Also where the segment that follows does not begin with a mark."""
    pieces = [Token(5, "\u2581CD", 3, 0.3, -0.1, 0.0), Token(6, "E", 90, 4.0, -0.1, 0.0)]
    segments = [Result([piece], is_final=True, frame_seconds=0.04) for piece in pieces]
    simulation = Simulation(join_segments(segments), None, 0.1, segments)
    record = make_record(Recording("a", tone(5.0), ["CD", "E"], []), simulation, None)
    (tmp_path / "utterances.jsonl").write_text(json.dumps(record) + "\n")
    (found,) = read_hypotheses(tmp_path / "utterances.jsonl", "kdasr").values()
    assert [word.text for word in found.words] == [word["word"] for word in record["words"]] == ["CD", "E"]


def test_a_chunk_is_waited_for() -> None:
    display = Display(chunk=0.32, look_ahead=0.1)
    assert display.shown(0.0) == pytest.approx(0.42)
    assert display.shown(0.3199) == pytest.approx(0.74)  # 0.32, rounded
    assert display.shown(0.3) == pytest.approx(0.42)
    assert Display(look_ahead=0.1).shown(0.3) == pytest.approx(0.4)
    ends = [display.shown(time, is_end=True) for time in (0.0, 0.3, 0.32, 0.3201, 0.33)]
    assert ends == pytest.approx([0.42, 0.42, 0.42, 0.42, 0.74])
    reference = [RefWord("a", 0.1, 0.2)]
    score = score_hypothesis(reference, words_of_pieces(["▁A"], [0.3]), display, str.lower)
    assert score.latency.first_word_ms == pytest.approx(320.0)
    assert asdict(score.latency)["first_token"] == "right"
    assert [word.text for word in words_of_pieces([" <0xC3>", "<0x80>", "B", " C"], range(4))] == [
        "\u00c0B",
        "C",
    ]


@pytest.mark.parametrize(
    ("format_name", "line"),
    [
        ("ctm", "u 1 1.20 0.08 one\n"),
        ("nemo", '{"id": "u", "timestamps_word": [{"word": "one", "start": 1.2, "end": 1.28}]}\n'),
    ],
)
def test_a_word_that_ends_with_a_chunk_is_shown_then(tmp_path: Path, format_name: str, line: str) -> None:
    (tmp_path / "heard").write_text(line)
    words = read_hypotheses(tmp_path / "heard", format_name)["u"].words
    score = score_hypothesis([RefWord("one", 1.0, 1.4)], words, Display(chunk=0.32), str.lower)
    assert score.latency.first_word_ms == pytest.approx(280.0)
    assert score.latency.finalization_ms == pytest.approx(-120.0)


def test_a_delay_that_rounds_to_nothing_has_no_sign(tmp_path: Path) -> None:
    """The last piece of the word comes 0.3 ms before its end."""
    (tmp_path / "true.ctm").write_text("a 1 0.1 0.4 x\n")
    (tmp_path / "ours.ctm").write_text("a 1 0.1 0.3997 x\n")
    arguments = ["--format", "ctm", str(tmp_path / "true.ctm"), str(tmp_path / "ours.ctm")]
    cells = CliRunner().invoke(command, arguments).output.splitlines()[-1].split("|")[1:-1]
    assert cells[-2].strip() == cells[-1].strip() == "0"


def test_an_utterance_that_a_system_lacks_is_one_it_missed(tmp_path: Path) -> None:
    (tmp_path / "chapter").mkdir()
    (tmp_path / "chapter" / "a.alignment.txt").write_text(ALIGNED)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "part").symlink_to(tmp_path / "chapter")
    references = read_references(tmp_path / "linked", str.lower)
    (tmp_path / "one.ctm").write_text("1-2-0002 1 0.3 0.2 yes\n")
    scores = score_system(references, read_hypotheses(tmp_path / "one.ctm", "ctm"), Display(), str.lower)
    assert scores["1-2-0001"].latency.first_token == "missing"
    assert scores["1-2-0001"].num_errors == 3
    (tmp_path / "other.ctm").write_text("x 1 0.3 0.2 yes\n")
    with pytest.raises(UserError, match="no utterance has a reference"):
        score_system(references, read_hypotheses(tmp_path / "other.ctm", "ctm"), Display(), str.lower)


def test_word_times_of_trimmed_cuts_count_from_their_begin(tmp_path: Path) -> None:
    audio = LhotseRecording("r", [AudioSource("file", [0], "r.wav")], 16000, 160_000, 10.0)
    said = [
        SupervisionSegment(name, "r", start, 2.0, text="one", alignment={"word": [item]})
        for name, start in (("a", 0.0), ("b", 1.0), ("c", 7.0))
        for item in [AlignmentItem("ONE", start + 0.25, 1.75)]
    ]
    whole = MonoCut("whole", 0.0, 10.0, 0, said, recording=audio)
    pieces = whole.trim_to_supervisions(keep_overlapping=False)
    CutSet.from_cuts(pieces).to_file(tmp_path / "cuts.jsonl.gz")
    references = read_references(tmp_path / "cuts.jsonl.gz", str.lower)
    assert references == {name: [RefWord("one", 0.25, 2.0)] for name in "abc"}


def test_supervisions_of_a_reference_may_come_in_any_order_but_not_overlap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = LhotseRecording("r", [AudioSource("file", [0], "r.wav")], 16000, 160_000, 10.0)
    late, early, other = (
        SupervisionSegment(name, "r", start, 3.0, text=name, alignment={"word": words})
        for name, start, ends in (("late", 5.0, [2.0]), ("early", 0.0, [2.0]), ("other", 4.5, [0.5, 2.9]))
        for words in [[AlignmentItem(name, start + end - 0.25, 0.25) for end in ends]]
    )
    cuts = [
        MonoCut(name, 0.0, 10.0, 0, said, recording=audio)
        for name, said in (("sound", [late, early]), ("mixed", [late, other]))
    ]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    references = read_references(tmp_path / "cuts.jsonl.gz", str.lower)
    assert references == {"sound": [RefWord("early", 1.75, 2.0), RefWord("late", 6.75, 7.0)]}
    assert "1 cut(s) with word times that cannot be true are left out: mixed ('late' at" in caplog.text


def test_cuts_of_several_channels_are_references_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audio = LhotseRecording("r", [AudioSource("file", [0, 1], "r.wav")], 16000, 160_000, 10.0, [0, 1])
    said = [
        SupervisionSegment(
            str(channel), "r", 0.0, 10.0, channel, "one", alignment={"word": [AlignmentItem("ONE", 0.25, 1)]}
        )
        for channel in (0, 1)
    ]
    cuts = [
        MultiCut(name, 0.0, 10.0, [0, 1], some, recording=audio)
        for name, some in (("a", said[:1]), ("b", said))
    ]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    assert read_references(tmp_path / "cuts.jsonl.gz", str.lower) == {"a": [RefWord("one", 0.25, 1.25)]}
    assert "1 cut(s) with speech on several channels, or mixtures, are left out: b" in caplog.text


_SAME_NAME = "".join(
    json.dumps({"filename": name, "tokens": ["▁A"], "timestamps": [0.1]}) + "\n"
    for name in ("x/a.wav", "y/a.wav")
)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ctm", "a 1 0.5 word\n", "line 1: not in the format 'ctm'"),
        ("icefall", "a:\thyp=['X', 'Y']\na:\ttimestamp_hyp=[0.1]\n", "'a' has 2 words and 1 times"),
        ("icefall", "a hyp\n", "line 1: not in the format 'icefall'"),
        ("icefall", "a:\thyp=[]\nb:\thyp=[]\na:\thyp=[]\n", "line 3: utterance 'a' is there twice"),
        ("nemo", '{"audio_filepath": "a.wav", "pred_text": "x"}\n', "no 'timestamps_word'"),
        ("nemo", "[1]\n", "expected a JSON object"),
        ("sherpa", '{"text": "a"}\n', "no 'tokens' and 'timestamps'"),
        ("sherpa", '{"id": "a", "tokens": ["a"], "timestamps": []}\n', "line 1: not in the format 'sherpa'"),
        ("sherpa", _SAME_NAME, "line 2: .*x/a.wav and y/a.wav are both utterance 'a'"),
        ("sherpa", _SAME_NAME.replace("y/", "x/"), None),
        ("ctm", "a 1 0.5 0.1 x\n\n;; only\n", None),
        ("ctm", "a A 0.5 0.1 x\na B 0.7 0.1 y\n", "line 2: .*'a' has the channels A and B"),
        ("ctm", "a 1 nan 0.1 x\n", "'x' has no finite times"),
        ("icefall", "a:\thyp=['X']\na:\ttimestamp_hyp=[1e999]\n", "'X' has no finite times"),
        ("nemo", '{"id": "a", "timestamps_word": [{"word": "x", "start": NaN, "end": 1}]}\n', "finite"),
        ("sherpa", '{"id": "a", "tokens": ["x"], "timestamps": [Infinity]}\n', "'x' has no finite times"),
        ("kdasr", '{"id": "a", "tokens": [{"piece": "x", "shown": "y"}]}\n', "not in the format 'kdasr'"),
        ("kdasr", '{"id": "a"}\n', "no 'tokens'"),
        ("ctm", ";; nothing\n", "holds no utterance"),
        ("praat", "", "--format praat: known are ctm, icefall, kdasr, nemo, sherpa"),
    ],
)
def test_what_does_not_parse(tmp_path: Path, name: str, text: str, message: str | None) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    if message is None:
        assert list(read_hypotheses(path, name)) == ["a"]
        return
    with pytest.raises(UserError, match=message):
        read_hypotheses(path, name)


def test_a_word_of_a_ctm_file_may_hold_a_space_that_does_not_break(tmp_path: Path) -> None:
    (tmp_path / "a.ctm").write_text("a\t1  0.5 0.25 10\u00a0000 0.9\n", encoding="utf-8")
    (heard,) = read_hypotheses(tmp_path / "a.ctm", "ctm")["a"].words
    assert (heard.text, heard.first, heard.last) == ("10\u00a0000", 0.5, 0.75)


def test_pieces_become_words() -> None:
    words = words_of_pieces(["▁TH", "E", "▁", "CAT", "'S"], [0.1, 0.2, 0.3, 0.4, 0.5])
    assert [(word.text, word.first, word.last) for word in words] == [("THE", 0.1, 0.2), ("CAT'S", 0.4, 0.5)]
