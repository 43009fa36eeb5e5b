"""`kdasr stream` and `kdasr decode` with an exported bundle in the place of a system's folder."""

import json
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner, Result
from export_helpers import bursts

from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.testing import write_corpus


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("wave") / "bursts.wav"
    soundfile.write(path, bursts(2.56, seed=4), 16000)
    return path


def run(command, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def final_line(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return next(line for line in result.output.splitlines() if line.startswith("  final"))


def test_a_bundle_hears_what_the_system_hears(student, wave: Path) -> None:
    system = final_line(run(stream, student.folder, wave))
    assert final_line(run(stream, student.bundle.folder, wave)) == system
    assert len(system.split()) > 1
    assert final_line(run(stream, student.bundle.folder, wave, "--int8"))


def test_decoding_with_a_bundle_names_it_and_runs_its_own_graphs(student, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "LibriSpeech", ["test-clean"], speakers=1, utterances=2)
    options = PrepareOptions(corpus_dir=corpus, out_dir=tmp_path / "data", parts=["test-clean"])
    prepare_corpus(options)
    summaries = []
    for int8 in ([], ["--int8"]):
        result = run(
            decode,
            student.bundle.folder,
            *("--data", tmp_path / "data", "--parts", "test-clean", "--out", tmp_path / "out", *int8),
        )
        assert result.exit_code == 0, result.output
        summaries.append(json.loads((tmp_path / "out/streaming/test-clean/summary.json").read_text()))
    full, quantized = summaries
    assert (full["system"], full["train_steps"], full["num_utterances"]) == ("two-stage", 7, 2)
    assert full["params"] == quantized["params"] == student.system.model.num_inference_params > 10_000
    assert full["checkpoint"].endswith("manifest.json")
    assert (full["int8"], quantized["int8"]) == (False, True)  # not skipped as decoded before


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (stream, ["--checkpoint", "best"], "--checkpoint best"),
        (stream, ["--context", "left=1,chunk=2"], "exported under"),
        (decode, ["--mode", "offline"], "--mode streaming"),
        (decode, ["--device", "cuda"], "on the CPU"),
        (decode, ["--out"], "--out is missing"),
        (decode, ["--contexts", "full; left=8,chunk=4"], "whose graphs have one context"),
    ],
)
def test_what_a_bundle_cannot_do_is_said(command, arguments, message, student, wave, tmp_path) -> None:
    if command is stream:
        result = run(stream, student.bundle.folder, wave, *arguments)
    else:
        corpus = write_corpus(tmp_path / "LibriSpeech", ["test-clean"], speakers=1, utterances=1)
        options = PrepareOptions(corpus_dir=corpus, out_dir=tmp_path / "data", parts=["test-clean"])
        prepare_corpus(options)
        out = ["--out", tmp_path / "out"] if arguments != ["--out"] else []
        more = arguments if arguments != ["--out"] else []
        result = run(
            decode,
            student.bundle.folder,
            *("--data", tmp_path / "data", "--parts", "test-clean", *out, *more),
        )
    assert result.exit_code == 1
    assert message in str(result.exception)


def test_biasing_and_int8_need_what_is_not_there(student, wave: Path, tmp_path: Path) -> None:
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("A NAME\n")
    bundle, system = student.bundle.folder, student.folder
    biased = run(stream, bundle, wave, "--search", "beam", "--biasing", phrases)
    assert "cannot split words into pieces" in str(biased.exception)
    assert "is not an exported bundle" in str(run(stream, system, wave, "--int8").exception)
