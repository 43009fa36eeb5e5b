"""`kdasr calibrate`, and what carries its map: recogniser, decoded parts, lines of JSON."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from experiment_folder import prepare_part, write_experiment
from streaming_helpers import bursts

from kdasr.checkpoint import load_bundle
from kdasr.cli.calibrate import command as calibrate
from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.streaming.calibrate import calibrate as measure
from kdasr.streaming.recognizer import StreamingRecognizer
from kdasr.streaming.simulate import simulate
from kdasr.testing import write_corpus

MAP = {"slope": 0.5, "offset": -1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    corpus = write_corpus(folder / "LibriSpeech", ["dev-clean"], speakers=1, utterances=4)
    return prepare_part(corpus, folder / "data", "dev-clean")


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    return write_experiment(tmp_path / "exp")


def _run(command: Any, *arguments: object) -> Result:
    threads = torch.get_num_threads()
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    torch.set_num_threads(threads)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def _store(exp: Path, calibration: dict[str, float] | None) -> None:
    """What the command would have found, of whatever words."""
    path = exp / "confidence.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": calibration}))


def test_the_map_is_found_once_and_used(exp: Path, data: Path) -> None:
    options = (exp, "--data", data, "--parts", "dev-clean")
    output = _run(calibrate, *options).output
    found = json.loads((exp / "confidence.json").read_text())
    assert found["parts"] == ["dev-clean"] and found["checkpoint"] == "last.pt"
    assert 0 <= found["wrong"] <= found["words"] and f"{found['words']} words" in output
    # A random model is right by chance, if ever; what it says of itself may calibrate nothing.
    stored = found["calibration"]
    assert load_bundle(exp).calibration == (Calibration(**stored) if stored else None)
    _store(exp, MAP)
    assert load_bundle(exp).calibration == Calibration(**MAP)
    _run(calibrate, *options)
    assert json.loads((exp / "confidence.json").read_text())["calibration"] == MAP  # not asked again
    _run(calibrate, *options, "--max-utterances", 2)
    again = json.loads((exp / "confidence.json").read_text())
    assert again["max_utterances"] == 2 and again["words"] < found["words"]


def test_a_map_of_another_checkpoint_is_not_used(exp: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = exp / "checkpoints" / "last.pt"
    found = {"checkpoint_sha256": sha256(checkpoint), "calibration": MAP}
    (exp / "confidence.json").write_text(json.dumps(found))
    assert load_bundle(exp).calibration == Calibration(**MAP) and not caplog.text
    payload = torch.load(checkpoint, weights_only=True)
    torch.save({**payload, "train_steps": 8}, checkpoint)
    logging.getLogger("kdasr").propagate = True  # the commands above have set up logging of their own
    assert load_bundle(exp).calibration is None
    assert "of another checkpoint than last.pt" in caplog.text
    for damaged in ("[]", "{", '{"checkpoint_sha256": 1}'):
        (exp / "confidence.json").write_text(damaged)
        with pytest.raises(UserError, match=r"confidence\.json: not a file of `kdasr calibrate`"):
            load_bundle(exp)


def test_confidences_are_mapped_wherever_they_are_shown(exp: Path, data: Path, tmp_path: Path) -> None:
    raw = StreamingRecognizer(load_bundle(exp))
    _run(calibrate, exp, "--data", data, "--parts", "dev-clean")
    _store(exp, MAP)
    recognizer = StreamingRecognizer.load(exp)
    with pytest.raises(ValueError, match="calibrated already"):
        measure(recognizer, [])
    wave = bursts(2.5, seed=1)
    before, after = (simulate(engine, wave).result.words for engine in (raw, recognizer))
    assert before == after and len(before) > 1
    assert [word.confidence for word in after] == [Calibration(**MAP)(word.confidence) for word in before]
    soundfile.write(tmp_path / "speech.wav", wave, 16000, subtype="FLOAT")
    (line,) = _run(stream, exp, tmp_path / "speech.wav", "--json").output.splitlines()
    shown = json.loads(line)
    assert [word["confidence"] for word in shown["words"]] == [round(word.confidence, 4) for word in after]
    assert [(word["word"], word["start"], word["end"]) for word in shown["words"]] == [
        (word.text, word.start, word.end) for word in after
    ]
    assert (shown["start"], shown["end"]) == (after[0].start, after[-1].end)
    lines = _run(stream, exp, tmp_path / "speech.wav", "--words").output.splitlines()
    listed = [line.split() for line in lines if line.startswith("     ") and len(line.split()) == 4]
    assert [row[3] for row in listed] == [word.text for word in after]
    assert [float(row[2]) for row in listed] == [round(word.confidence, 3) for word in after]


def test_decoding_anew_when_the_calibration_or_the_endpoints_change(exp: Path, data: Path) -> None:
    folder = exp / "decode" / "streaming" / "dev-clean"

    def records(*options: object) -> list[dict[str, Any]]:
        _run(decode, exp, "--data", data, "--parts", "dev-clean", "--streams", 4, *options)
        return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]

    plain = records()
    assert json.loads((folder / "summary.json").read_text())["calibration"] is None
    words = [word for record in plain for word in record["words"]]
    assert len(words) > 3 and all(0 <= word["confidence"] <= 1 for word in words)
    assert all(word["start"] < word["end"] for word in words)
    _run(calibrate, exp, "--data", data, "--parts", "dev-clean")
    _store(exp, MAP)
    mapped = [word for record in records() for word in record["words"]]
    assert json.loads((folder / "summary.json").read_text())["calibration"] == MAP
    expected = [Calibration(**MAP)(word["confidence"]) for word in words]
    assert [word["confidence"] for word in mapped] == pytest.approx(expected, abs=2e-3)
    rules = ("--endpoints", "--rule2-min-trailing-silence", 0.1, "--rule3-min-utterance-length", 0.5)
    cut = records(*rules)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["endpoint_rules"]["rule3_min_utterance_length"] == 0.5
    assert [record["tokens"] for record in cut] != [record["tokens"] for record in plain]
    with pytest.raises(UserError, match="--rule2-min-trailing-silence needs --endpoints"):
        records("--rule2-min-trailing-silence", 0.1)
    with pytest.raises(UserError, match="--endpoints needs --mode streaming"):
        _run(decode, exp, "--data", data, "--parts", "dev-clean", "--mode", "offline", "--endpoints")
    with pytest.raises(UserError, match="endpoints need a chunked context"):
        records("--context", "full", "--endpoints")


def test_segments_of_a_file_are_printed_with_their_times(exp: Path, tmp_path: Path) -> None:
    wave = np.concatenate([bursts(1.5, 1), np.zeros(24000, dtype=np.float32), bursts(1.0, 2)])
    soundfile.write(tmp_path / "speech.wav", wave, 16000, subtype="FLOAT")
    options = ("--endpoints", "--rule3-min-utterance-length", 0.9, "--blank-penalty", -1)
    lines = _run(stream, exp, tmp_path / "speech.wav", *options).output.splitlines()
    finals = [line.split(maxsplit=4) for line in lines if line.startswith("  final")]
    cut = [
        json.loads(line)
        for line in _run(stream, exp, tmp_path / "speech.wav", *options, "--json").output.splitlines()
    ]
    assert len(finals) == len(cut) > 2
    for (_, start, dash, end, text), segment in zip(finals, cut, strict=True):
        assert (float(start), dash, float(end)) == (segment["start"], "-", segment["end"])
        assert text == segment["text"] and segment["file"].endswith("speech.wav")
        assert 0 <= float(start) < float(end)
    assert [segment["start"] for segment in cut] == sorted(segment["start"] for segment in cut)
    assert [segment["segment"] for segment in cut] == sorted({segment["segment"] for segment in cut})
    whole = _run(stream, exp, tmp_path / "speech.wav", "--no-endpoints", "--json").output.splitlines()
    assert len(whole) == 1
