"""From a prepared data folder and a checkpoint to results on disk: `kdasr decode` and `kdasr stream`."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from click.testing import CliRunner
from experiment_folder import invoke, prepare_part, write_experiment
from streaming_helpers import GEOMETRY, bursts

from kdasr.cli.contexts import parse_context, trained_contexts, warn_of_untrained
from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.common.errors import UserError
from kdasr.evaluation.evaluate import Recording, make_record, summarize_records
from kdasr.evaluation.latency import RefWord
from kdasr.evaluation.wer import word_errors
from kdasr.nn.context import Context
from kdasr.recognition import microphone
from kdasr.recognition.result import Result as Recognized
from kdasr.recognition.result import Token
from kdasr.recognition.simulate import Simulation
from kdasr.recognition.windows import Windows
from kdasr.testing import write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = write_corpus(
        folder / "LibriSpeech", ["test-clean"], utterances=2, alignments_dir=folder / "alignments"
    )
    write_corpus(folder / "plain", ["test-other"], speakers=1, utterances=2)
    for corpus_dir, alignments, part in [
        (corpus, folder / "alignments", "test-clean"),
        (folder / "plain", None, "test-other"),
    ]:
        prepare_part(corpus_dir, folder / "data", part, alignments)
    return folder / "data"


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """An experiment folder with a random model that emits pieces of a real tokenizer."""
    return write_experiment(tmp_path / "exp" / "student")


def _decode(exp: Path, data: Path, mode: str, *options: object, part: str = "test-clean") -> Path:
    result = invoke(decode, exp, "--data", data, "--parts", part, "--mode", mode, *options)
    assert result.exit_code == 0, result.output
    return exp / "decode" / mode / part


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]


def test_decoding_writes_consistent_results(exp: Path, data: Path) -> None:
    folder = _decode(exp, data, "streaming")
    records, summary = _lines(folder), json.loads((folder / "summary.json").read_text())
    assert len(records) == summary["num_utterances"] == 4
    assert any(len(record["tokens"]) > 3 for record in records)
    for record in records:
        errors = word_errors(record["ref"], record["hyp"])
        counted = (errors.substitutions, errors.insertions, errors.deletions, errors.words)
        assert tuple(record["errors"][kind] for kind in ("sub", "ins", "del", "words")) == counted
        assert [word["word"] for word in record["ref_words"]] == record["ref"].split()
        assert [word["word"] for word in record["words"]] == record["hyp"].split()
        assert all(token["wall"] > token["shown"] for token in record["tokens"])
        assert all(0 < token["shown"] <= record["duration"] for token in record["tokens"])
        if record["tokens"]:
            delay = record["tokens"][0]["shown"] - record["ref_words"][0]["start"]
            assert record["first_token_ms"] == pytest.approx(1000 * delay, abs=1e-3)
    words, errors = summary["num_words"], sum(summary["errors"].values())
    assert summary["wer"] == pytest.approx(100 * errors / words)
    assert (folder / "errs.txt").read_text().startswith(f"%WER = {summary['wer']:.2f}\n")
    assert len((folder / "recogs.txt").read_text().splitlines()) == 8
    assert (summary["system"], summary["part"], summary["mode"]) == ("student", "test-clean", "streaming")
    assert (summary["train_steps"], summary["context"]) == (7, "left=8 chunk=4 right=0")
    assert summary["onset"] == "alignment" and summary["rtf"] > 0
    assert {"mean", "p50", "p90", "p99", "wall_mean", "count"} == set(summary["first_token_ms"])


@pytest.mark.parametrize("context", ["left=6,chunk=2,right=3", "full"])
def test_both_modes_give_the_same_tokens_at_the_same_frames(exp: Path, data: Path, context: str) -> None:
    streamed = _lines(_decode(exp, data, "streaming", "--context", context))
    offline = _lines(_decode(exp, data, "offline", "--context", context))
    for left, right in zip(streamed, offline, strict=True):
        assert left["id"] == right["id"] and left["hyp"] == right["hyp"]
        assert [token["frame"] for token in left["tokens"]] == [token["frame"] for token in right["tokens"]]
        assert all(token["shown"] == right["duration"] for token in right["tokens"])
    assert any(record["tokens"] for record in streamed)


@pytest.mark.parametrize("context", ["left=6,chunk=2,right=3", "full"])
def test_streams_in_one_batch_equal_each_alone(exp: Path, data: Path, context: str) -> None:
    options = ["--context", context, "--search", "beam", "--beam", 3, "--nbest", 2]
    alone = _lines(_decode(exp, data, "streaming", *options))
    folder = _decode(exp, data, "streaming", *options, "--streams", 3)  # of four: one is left over
    together = _lines(folder)
    timed = ("wall", "first_token_wall_ms", "first_token_parts_ms", "compute_seconds")
    assert len(together) == 4 and any(record["first_token_ms"] is not None for record in together)
    for left, right in zip(alone, together, strict=True):
        for name, value in left.items():
            if name in ("tokens", "words"):
                alone_at = [item.pop("confidence", 0.0) for item in value]  # to their rounding
                assert [item.pop("confidence", 0.0) for item in right[name]] == pytest.approx(
                    alone_at, abs=2e-4
                )
                kept = [{key: item[key] for key in item if key != "wall"} for item in value]
                assert [{**item, "wall": None} for item in kept] == right[name]
            elif name == "nbest":  # the scores to their rounding
                assert [entry["hyp"] for entry in right[name]] == [entry["hyp"] for entry in value]
            elif name not in timed:
                assert right[name] == value, name
        assert right["first_token_wall_ms"] is right["first_token_parts_ms"] is None
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["streams"] == 3 and summary["rtf"] > 0
    assert summary["first_token_ms"]["wall_mean"] is None and summary["first_token_ms"]["count"] > 0
    # One at a time afterwards is another result: it has the times.
    _decode(exp, data, "streaming", *options)
    assert json.loads((folder / "summary.json").read_text())["first_token_ms"]["wall_mean"] > 0


def test_a_part_without_alignments_counts_from_the_energy_onset(exp: Path, data: Path) -> None:
    folder = _decode(exp, data, "streaming", part="test-other")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["onset"] == "energy" and summary["emission_delay_ms"]["count"] == 0


def test_finished_work_is_skipped_until_something_changes(exp: Path, data: Path) -> None:
    folder = _decode(exp, data, "offline")
    (folder / "recogs.txt").write_text("mine")
    _decode(exp, data, "offline")
    assert (folder / "recogs.txt").read_text() == "mine"
    _decode(exp, data, "offline", "--max-utterances", 2)
    assert len(_lines(folder)) == 2
    (folder / "recogs.txt").write_text("mine")
    _decode(exp, data, "offline", "--max-utterances", 2, "--force")
    assert (folder / "recogs.txt").read_text() != "mine"
    checkpoint = exp / "checkpoints" / "last.pt"
    (folder / "recogs.txt").write_text("mine")
    payload = torch.load(checkpoint, weights_only=True)
    payload["model"]["joiner.output.bias"] += 1.0
    torch.save(payload, checkpoint)
    _decode(exp, data, "offline", "--max-utterances", 2)
    assert (folder / "recogs.txt").read_text() != "mine"


def test_streaming_files_of_any_kind(exp: Path, tmp_path: Path) -> None:
    stereo = np.stack([bursts(1.2, rate=44100)] * 2, axis=1)
    soundfile.write(tmp_path / "stereo.wav", stereo, 44100)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "short.wav", bursts(1.0)[:30], 8000)
    files = [tmp_path / name for name in ("stereo.wav", "empty.wav", "short.wav")]
    lines = invoke(stream, exp, *files).output.splitlines()
    finals = [line.split("final")[1].strip() for line in lines if "final" in line]
    assert len(finals) == 3 and finals[0] and finals[1:] == ["", ""]
    partials = [line.split(maxsplit=1) for line in lines if line[:1] == " " and line.split()[0][0].isdigit()]
    assert partials[-1][1] == finals[0]
    assert [float(seconds) for seconds, _ in partials] == sorted(float(seconds) for seconds, _ in partials)


def test_beam_search_on_the_command_line(exp: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("SEVEN\t4.0\n")
    beam = ["--search", "beam", "--beam", 3, "--nbest", 2, "--biasing", tmp_path / "phrases.txt"]
    streamed = _lines(_decode(exp, data, "streaming", *beam))
    folder = _decode(exp, data, "offline", *beam)
    offline = _lines(folder)
    for left, right in zip(streamed, offline, strict=True):
        assert left["hyp"] == right["hyp"] == right["nbest"][0]["hyp"]
        assert [entry["hyp"] for entry in left["nbest"]] == [entry["hyp"] for entry in right["nbest"]]
        assert len(right["nbest"]) == 2
        assert all(token["wall"] > token["shown"] for token in left["tokens"])
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["search"], summary["nbest"]) == ("beam beam=3", 2)
    assert len(summary["biasing_sha256"]) == 64
    plain = _lines(_decode(exp, data, "offline", "--search", "beam", "--beam", 3))
    assert sum(record["hyp"].count("SEVEN") for record in plain) < sum(
        record["hyp"].count("SEVEN") for record in offline
    )
    assert "nbest" not in plain[0]


def test_another_search_is_another_result(exp: Path, data: Path) -> None:
    folder = _decode(exp, data, "offline")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["search"], summary["nbest"], summary["biasing_sha256"]) == ("greedy", 0, None)
    assert summary["tail_seconds"] == pytest.approx(0.12)
    # Summaries from before there was another search do not mention it.
    old = {key: value for key, value in summary.items() if key not in ("search", "nbest", "biasing_sha256")}
    (folder / "summary.json").write_text(json.dumps(old))
    (folder / "recogs.txt").write_text("mine")
    _decode(exp, data, "offline")
    assert (folder / "recogs.txt").read_text() == "mine"
    for options in (
        ["--blank-penalty", 0.5],
        ["--search", "beam"],
        ["--search", "beam", "--temperature", 1.5],
        ["--tail-seconds", 0],
    ):
        (folder / "recogs.txt").write_text("mine")
        _decode(exp, data, "offline", *options)
        assert (folder / "recogs.txt").read_text() != "mine"
        (folder / "recogs.txt").write_text("mine")
        _decode(exp, data, "offline", *options)
        assert (folder / "recogs.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "options", [["--nbest", 2], ["--temperature", 2], ["--biasing", __file__], ["--beam", 8]]
)
def test_what_greedy_search_cannot_do_is_refused(
    exp: Path, data: Path, tmp_path: Path, options: list[object]
) -> None:
    with pytest.raises(UserError, match=f"{options[0]} needs --search beam"):
        invoke(decode, exp, "--data", data, "--parts", "test-clean", *options)
    with pytest.raises(UserError, match=f"{options[0]} needs --search beam"):
        soundfile.write(tmp_path / "speech.wav", bursts(0.5), 16000)
        invoke(stream, exp, tmp_path / "speech.wav", *options)


def test_options_without_effect_are_refused(
    exp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "speech.wav", bursts(0.5), 16000)
    monkeypatch.setattr(microphone, "check_microphone", lambda _: None)
    with pytest.raises(UserError, match="--mic-device needs --mic"):
        invoke(stream, exp, tmp_path / "speech.wav", "--mic-device", "1")
    with pytest.raises(UserError, match=r"--device Jabra: .*--mic-device"):
        invoke(stream, exp, "--mic", "--device", "Jabra")
    with pytest.raises(UserError, match="--packet-ms needs files"):
        invoke(stream, exp, "--mic", "--packet-ms", "20")


def test_results_go_where_they_can_be_written(exp: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file: there is a file of that name"):
        invoke(decode, exp, "--data", data, "--parts", "test-clean", "--out", tmp_path / "file")


def test_streams_in_one_batch_need_streams(exp: Path, data: Path) -> None:
    with pytest.raises(UserError, match="--streams needs --mode streaming; it is offline"):
        invoke(decode, exp, "--data", data, "--parts", "test-clean", "--mode", "offline", "--streams", 2)


def test_streaming_a_file_with_alternatives(exp: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "speech.wav", bursts(1.2), 16000)
    options = ["--search", "beam", "--nbest", 3, "--tail-seconds", 0.3]
    lines = invoke(stream, exp, tmp_path / "speech.wav", *options).output.splitlines()
    final = next(index for index, line in enumerate(lines) if "final" in line)
    listed = [line.split(maxsplit=1) for line in lines[final + 1 : final + 4]]
    assert listed[0][1] == lines[final].split(maxsplit=1)[1]
    assert len({text for _, text in listed}) == 3 and all(float(score) < 0 for score, _ in listed)
    wrong = invoke(stream, exp, tmp_path / "speech.wav", "--tail-seconds", "long")
    assert wrong.exit_code == 2 and "long" in wrong.output


def test_a_bad_file_is_named_before_anything_is_decoded(exp: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", bursts(0.5), 16000)
    (tmp_path / "bad.wav").write_text("no sound")
    result = CliRunner().invoke(stream, [str(exp), str(tmp_path / "good.wav"), str(tmp_path / "bad.wav")])
    assert isinstance(result.exception, UserError) and "bad.wav" in str(result.exception)
    assert "good.wav" not in result.output


def test_contexts_on_the_command_line() -> None:
    assert parse_context("left=32,chunk=8,right=2") == Context(32, 8, 2)
    assert parse_context("chunk=8 left=0") == Context(0, 8, 0)
    assert parse_context("full") == Context.full()
    for text in (
        "chunk=8",
        "left=32,chunk=0",
        "left=32,chunk=8,top=1",
        "left=1,chunk=2,left=3",
        "left=-1,chunk=4",
        "8",
    ):
        with pytest.raises(UserError, match="context '"):
            parse_context(text)


CONTEXTS = [{"left": 8, "chunk": 4}, {"left": 8, "chunk": 2}, {"left": 8, "chunk": 8}]


def test_all_contexts_of_a_training_are_decoded_beside_the_own_one(exp: Path, data: Path) -> None:
    (exp / "config.yaml").write_text(yaml.safe_dump({"contexts": CONTEXTS}))
    _decode(exp, data, "streaming", "--all-contexts", "--max-utterances", 1)
    for chunk in (2, 4, 8):
        folder = exp / "contexts" / f"left-8-chunk-{chunk}-right-0" / "streaming" / "test-clean"
        assert json.loads((folder / "summary.json").read_text())["context"] == f"left=8 chunk={chunk} right=0"
    own = exp / "decode" / "streaming" / "test-clean"
    assert json.loads((own / "summary.json").read_text())["context"] == "left=8 chunk=4 right=0"
    before = {path: path.stat().st_mtime_ns for path in exp.glob("contexts/*/*/*/summary.json")}
    _decode(exp / "checkpoints" / "last.pt", data, "streaming", "--all-contexts", "--max-utterances", 1)
    assert before == {path: path.stat().st_mtime_ns for path in exp.glob("contexts/*/*/*/summary.json")}
    with pytest.raises(UserError, match="--context needs one context"):
        _decode(exp, data, "streaming", "--all-contexts", "--context", "full")


def test_chosen_contexts_are_decoded_in_place_of_the_own_one(exp: Path, data: Path) -> None:
    (exp / "config.yaml").write_text(yaml.safe_dump({"contexts": CONTEXTS}))
    chosen = "left=8,chunk=2 ; left=4,chunk=2,right=1; full"
    _decode(exp, data, "streaming", "--contexts", chosen, "--max-utterances", 1)
    paths = list((exp / "contexts").glob("*/streaming/test-clean/summary.json"))
    summaries = {path.parts[-4]: json.loads(path.read_text()) for path in paths}
    assert {name: (summary["context"], summary["wait_frames"]) for name, summary in summaries.items()} == {
        "left-8-chunk-2-right-0": ("left=8 chunk=2 right=0", 2),
        "left-4-chunk-2-right-1": ("left=4 chunk=2 right=1", 3),
        "full": ("full", None),
    }
    assert not (exp / "decode").exists()
    for wrong, message in (
        ("full;full", "'full' is there twice"),
        (" ; ", "expected such as"),
        ("full; chunk=2", "context ' chunk=2'"),
    ):
        with pytest.raises(UserError, match=message):
            _decode(exp, data, "streaming", "--contexts", wrong)
    with pytest.raises(UserError, match="--context needs one context"):
        _decode(exp, data, "streaming", "--contexts", "full", "--context", "full")
    # What one of them cannot have is said before the first is decoded.
    with pytest.raises(UserError, match="endpoints need a stream that is recognized chunk"):
        _decode(exp, data, "streaming", "--contexts", "left=8,chunk=8; full", "--endpoints")
    assert not (exp / "contexts" / "left-8-chunk-8-right-0").exists()


@pytest.mark.parametrize(
    ("contexts", "names"),
    [
        (CONTEXTS[:1], []),
        (CONTEXTS, ["left-8-chunk-4-right-0", "left-8-chunk-2-right-0", "left-8-chunk-8-right-0"]),
        ([*CONTEXTS[:1], {}], ["left-8-chunk-4-right-0", "full"]),
        (
            [{"left": 8, "chunk": 4}, {"left": 8, "chunk": 4, "right": 1}],
            ["left-8-chunk-4-right-0", "left-8-chunk-4-right-1"],
        ),
    ],
)
def test_contexts_have_folders_of_their_own(
    tmp_path: Path, contexts: list[dict[str, int]], names: list[str]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": contexts}))
    assert list(trained_contexts(tmp_path)) == names


def test_contexts_that_are_drawn_and_not_named_are_said_to_be_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    drawn: dict[str, Any] = {"left": [8], "chunk": [2, 4]}
    for contexts, count in ((drawn, 1), (drawn | {"evaluate": CONTEXTS}, 0), (CONTEXTS[:1], 0)):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": contexts}))
        caplog.clear()
        trained_contexts(tmp_path)
        assert len(caplog.messages) == count
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": drawn}))
    assert trained_contexts(tmp_path) == {}
    assert "only its own is decoded" in caplog.text


@pytest.mark.parametrize(
    ("contexts", "count"),
    [
        (CONTEXTS, 1),
        ({"left": [8], "chunk": [2, 4]}, 1),
        ({"left": [8], "chunk": [2], "full_probability": 0.2, "evaluate": CONTEXTS}, 1),
        ([{"left": 8, "chunk": 2}, {"left": 6, "chunk": 2}, {}], 0),
    ],
)
def test_a_context_that_training_never_saw_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, contexts: Any, count: int
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": contexts}))
    warn_of_untrained(tmp_path / "checkpoints" / "last.pt", [Context(8, 2), Context(6, 2)])
    assert len(caplog.messages) == count
    assert all("was not trained under left=6 chunk=2 right=0, but" in message for message in caplog.messages)


def test_folders_of_contexts_that_an_earlier_version_named_are_gone_on_with(tmp_path: Path) -> None:
    for name in ("chunk-4", "chunk-2", "left-8-chunk-2-right-0"):
        (tmp_path / "contexts" / name).mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": CONTEXTS}))
    assert list(trained_contexts(tmp_path)) == ["chunk-4", "left-8-chunk-2-right-0", "left-8-chunk-8-right-0"]
    # Of two contexts with this chunk, which one it was is not said.
    contexts = [*CONTEXTS, {"left": 4, "chunk": 4}]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"contexts": contexts}))
    assert "chunk-4" not in trained_contexts(tmp_path)


def test_contexts_that_no_configuration_names_are_refused(tmp_path: Path) -> None:
    for kind in (None, "kind: language_model\n"):
        if kind:
            (tmp_path / "config.yaml").write_text(kind)
        with pytest.raises(UserError, match=r"has no config\.yaml of a transducer"):
            trained_contexts(tmp_path)


def test_utterances_with_and_without_word_times_are_not_mixed() -> None:
    tokens = [Token(3, "\u2581A", 5, 0.5, -0.25, -0.125)]
    simulation = Simulation(Recognized(tokens, is_final=True, frame_seconds=0.04), [0.6], 0.1)
    speech = np.concatenate([np.zeros(3200), bursts(0.8)]).astype(np.float32)
    full = Windows(Context.full(), GEOMETRY)
    timed = make_record(Recording("timed", speech, ["A"], [RefWord("A", 0.3, 0.4)]), simulation, full)
    untimed = make_record(Recording("untimed", speech, ["A"], []), simulation, full)
    spoken = {"word": "A", "start": 0.2, "end": 0.24, "confidence": round(math.exp(-0.125), 4)}
    assert timed["words"] == [{**spoken, "shown": 0.5, "wall": 0.6, "ref_index": 0}]
    wrong = make_record(Recording("wrong", speech, ["B"], [RefWord("B", 0.3, 0.4)]), simulation, full)
    assert wrong["words"][0]["ref_index"] is None and wrong["emission_delay_ms"] == []
    assert timed["first_token_parts_ms"] is not None
    whole = make_record(Recording("whole", speech, ["A"], [RefWord("A", 0.3, 0.4)]), simulation, None)
    assert whole["first_token_parts_ms"] is None and whole["first_token_ms"] == timed["first_token_ms"]
    assert timed["first_token_ms"] == pytest.approx(200.0)
    assert timed["emission_delay_ms"] == pytest.approx([100.0])
    assert untimed["first_token_ms"] == pytest.approx(1000 * (0.5 - untimed["onset"]))
    mixed = summarize_records([timed, untimed])
    assert mixed["onset"] == "alignment"
    assert (mixed["first_token_ms"]["count"], mixed["first_token_ms"]["mean"]) == (1, 200.0)
    assert mixed["first_token_ms"]["wall_mean"] == pytest.approx(300.0)
    assert mixed["rtf"] == pytest.approx(0.1)
    longer = make_record(Recording("longer", speech, ["A", "B"], []), simulation, full)
    silent = make_record(Recording("silent", speech, [], []), simulation, full)
    timings = [silent[name] for name in ("onset", "first_token", "first_token_ms", "first_word_ms")]
    assert timings == [None] * 4 and silent["errors"]["ins"] == 1
    assert summarize_records([untimed, silent])["first_word_ms"]["coverage"] == 1.0
    records = [timed, untimed, wrong, longer, silent]
    assert summarize_records(records)["last_word_recall"] == 2 / 4
    assert summarize_records([silent])["last_word_recall"] is None
    assert summarize_records([])["wer"] is None
