"""`kdasr calibrate`, and what carries its map: recognizer, decoded parts, lines of JSON."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from experiment_folder import prepare_part, run, write_experiment
from streaming_helpers import bursts
from tone_spotter import WORDS, make_spotter, spoken

from kdasr.bundle import load_bundle
from kdasr.cli.calibrate import command as calibrate
from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.decoding.search import GreedyOptions
from kdasr.evaluation.calibrate import calibrate as measure
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.joining import Pause
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import simulate
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


def _store(exp: Path, calibration: dict[str, float] | None) -> None:
    """What the command would have found, of whatever words."""
    path = exp / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": calibration}))


def test_the_map_is_found_once_and_used(exp: Path, data: Path) -> None:
    options = (exp, "--data", data, "--parts", "dev-clean")
    output = run(calibrate, *options).output
    found = json.loads((exp / "calibration.json").read_text())
    assert found["parts"] == ["dev-clean"] and found["checkpoint"] == "last.pt"
    assert 0 <= found["wrong"] <= found["words"] and f"{found['words']} words" in output
    # A random model is right by chance, if ever; what it says of itself may calibrate nothing.
    stored = found["calibration"]
    assert load_bundle(exp).calibration == (Calibration(**stored) if stored else None)
    _store(exp, MAP)
    assert load_bundle(exp).calibration == Calibration(**MAP)
    run(calibrate, *options)
    assert json.loads((exp / "calibration.json").read_text())["calibration"] == MAP  # not asked again
    known = json.loads((exp / "calibration.json").read_text())
    known.pop("transcripts_sha256")  # as of an earlier version
    (exp / "calibration.json").write_text(json.dumps(known))
    run(calibrate, *options)
    assert json.loads((exp / "calibration.json").read_text()) == known
    (exp / "calibration.json").write_text(json.dumps({**known, "transcripts_sha256": "of others"}))
    run(calibrate, *options)
    assert json.loads((exp / "calibration.json").read_text())["calibration"] == stored
    run(calibrate, *options, "--max-utterances", 2)
    again = json.loads((exp / "calibration.json").read_text())
    assert again["max_utterances"] == 2 and again["words"] < found["words"]


def test_a_map_of_another_checkpoint_is_not_used(exp: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = exp / "checkpoints" / "last.pt"
    found = {"checkpoint_sha256": sha256(checkpoint), "calibration": MAP, "blank_penalty": 0.5}
    (exp / "calibration.json").write_text(json.dumps(found))
    assert load_bundle(exp).calibration == Calibration(**MAP) and not caplog.text
    payload = torch.load(checkpoint, weights_only=True)
    torch.save({**payload, "train_steps": 8}, checkpoint)
    logging.getLogger("kdasr").propagate = True  # the commands above have set up logging of their own
    assert load_bundle(exp).calibration is None
    assert "of another checkpoint than last.pt" in caplog.text
    for damaged in ("[]", "{", '{"checkpoint_sha256": 1}', json.dumps({**found, "blank_penalty": "many"})):
        (exp / "calibration.json").write_text(damaged)
        with pytest.raises(UserError, match=r"calibration\.json: not a file of `kdasr calibrate`"):
            load_bundle(exp)


def test_the_blank_penalty_is_in_logits_except_in_training(exp: Path) -> None:
    """The law: a folded penalty is a penalty of the search."""
    checkpoint = exp / "checkpoints" / "last.pt"
    found = {"checkpoint_sha256": sha256(checkpoint), "calibration": None, "blank_penalty": 0.75}
    (exp / "calibration.json").write_text(json.dumps(found))
    bundle, trained = load_bundle(exp), load_bundle(exp, as_trained=True)
    assert (bundle.blank_penalty, trained.blank_penalty) == (0.75, 0.0)
    wave = bursts(2.5, seed=1)
    plain, folded, asked = (
        simulate(StreamingRecognizer(system, search=GreedyOptions(blank_penalty=penalty)), wave).result
        for system, penalty in ((trained, 0.0), (bundle, 0.0), (trained, 0.75))
    )
    assert len(plain.tokens) < len(folded.tokens) and folded.pieces == asked.pieces
    assert [token.log_prob for token in folded.tokens] == pytest.approx(
        [token.log_prob for token in asked.tokens], abs=1e-5
    )


def test_the_blank_penalty_with_fewest_errors_is_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too sure of the blank by 1.2; from 2 on, pauses have words."""
    silence = Pause(2.0, "silence")  # noise is a tone here
    monkeypatch.setattr("kdasr.evaluation.calibrate.AFTERWARDS", silence)
    monkeypatch.setattr("kdasr.evaluation.calibrate.GAPS", (silence,))
    spotter = make_spotter(Context(left=8, chunk=4))
    spotter.model.joiner.forward = lambda encoded, predicted: _sure_of_blank(encoded + predicted)
    words = [[0, 1], [2, 3, 1]]
    waves = [spoken(tones, [8000] * len(tones)) for tones in words]
    recordings = [
        Recording(f"{number}", wave, [WORDS[tone] for tone in tones], [])
        for number, (tones, wave) in enumerate(zip(words, waves, strict=True))
    ]
    found = measure(spotter, recordings)
    assert found["blank_penalty"] == 1.5 and (found["words"], found["wrong"]) == (10, 0)
    rates = {entry["blank_penalty"]: entry["wer"] for entry in found["penalties"]}
    assert rates[1.0] == 100.0 and rates[1.5] == 0.0 and rates[2.0] > 0.0


def _sure_of_blank(logits: torch.Tensor) -> torch.Tensor:
    logits = logits.clone()
    logits[..., 0] += 6.2
    logits[..., 3] = logits[..., 3].clamp(min=9.3)
    return logits


def test_confidences_are_mapped_wherever_they_are_shown(exp: Path, data: Path, tmp_path: Path) -> None:
    raw = StreamingRecognizer(load_bundle(exp))
    run(calibrate, exp, "--data", data, "--parts", "dev-clean")
    _store(exp, MAP)
    recognizer = StreamingRecognizer.load(exp)
    with pytest.raises(ValueError, match="calibrated already"):
        measure(recognizer, [])
    wave = bursts(2.5, seed=1)
    before, after = (simulate(engine, wave).result.words for engine in (raw, recognizer))
    assert before == after and len(before) > 1
    assert [word.confidence for word in after] == [Calibration(**MAP)(word.confidence) for word in before]
    soundfile.write(tmp_path / "speech.wav", wave, 16000, subtype="FLOAT")
    (line,) = run(stream, exp, tmp_path / "speech.wav", "--json").output.splitlines()
    shown = json.loads(line)
    assert [word["confidence"] for word in shown["words"]] == [round(word.confidence, 4) for word in after]
    assert [(word["word"], word["start"], word["end"]) for word in shown["words"]] == [
        (word.text, word.start, word.end) for word in after
    ]
    assert (shown["start"], shown["end"]) == (after[0].start, after[-1].end)
    lines = run(stream, exp, tmp_path / "speech.wav", "--words").output.splitlines()
    listed = [line.split() for line in lines if line.startswith("     ") and len(line.split()) == 4]
    assert [row[3] for row in listed] == [word.text for word in after]
    assert [float(row[2]) for row in listed] == [round(word.confidence, 3) for word in after]


def test_decoding_anew_when_the_calibration_or_the_endpoints_change(exp: Path, data: Path) -> None:
    folder = exp / "decode" / "streaming" / "dev-clean"

    def records(*options: object) -> list[dict[str, Any]]:
        run(decode, exp, "--data", data, "--parts", "dev-clean", "--streams", 4, *options)
        return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]

    plain = records()
    assert json.loads((folder / "summary.json").read_text())["calibration"] is None
    words = [word for record in plain for word in record["words"]]
    assert len(words) > 3 and all(0 <= word["confidence"] <= 1 for word in words)
    assert all(word["start"] < word["end"] for word in words)
    run(calibrate, exp, "--data", data, "--parts", "dev-clean")
    _store(exp, MAP)
    mapped = [word for record in records() for word in record["words"]]
    assert json.loads((folder / "summary.json").read_text())["calibration"] == MAP
    expected = [Calibration(**MAP)(word["confidence"]) for word in words]
    assert [word["confidence"] for word in mapped] == pytest.approx(expected, abs=2e-3)
    again = [record["words"] for record in records("--as-trained")]
    assert again == [record["words"] for record in plain]
    assert json.loads((folder / "summary.json").read_text())["calibration"] is None
    rules = ("--endpoints", "--keep-predictor", "--rule3-min-utterance-length", 0.5)
    cut = records(*rules)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["endpoint_rules"]["rule3_min_utterance_length"] == 0.5
    # As in sherpa-onnx, a word that rule 3 has cut is two.
    assert sum(len(record["words"]) for record in cut) > sum(len(record["words"]) for record in plain)
    with pytest.raises(UserError, match="--rule2-min-trailing-silence needs --endpoints"):
        records("--rule2-min-trailing-silence", 0.1)
    with pytest.raises(UserError, match="--endpoints needs --mode streaming"):
        run(decode, exp, "--data", data, "--parts", "dev-clean", "--mode", "offline", "--endpoints")
    with pytest.raises(UserError, match="endpoints need a stream that is recognized chunk"):
        records("--context", "full", "--endpoints")


def test_segments_of_a_file_are_printed_with_their_times(exp: Path, tmp_path: Path) -> None:
    wave = np.concatenate([bursts(1.5, 1), np.zeros(24000, dtype=np.float32), bursts(1.0, 2)])
    soundfile.write(tmp_path / "speech.wav", wave, 16000, subtype="FLOAT")
    options = ("--endpoints", "--rule3-min-utterance-length", 0.9, "--blank-penalty", -1)
    lines = run(stream, exp, tmp_path / "speech.wav", *options).output.splitlines()
    finals = [line.split(maxsplit=4) for line in lines if line.startswith("  final")]
    cut = [
        json.loads(line)
        for line in run(stream, exp, tmp_path / "speech.wav", *options, "--json").output.splitlines()
    ]
    assert len(finals) == len(cut) > 2
    for (_, start, dash, end, text), segment in zip(finals, cut, strict=True):
        assert (float(start), dash, float(end)) == (segment["start"], "-", segment["end"])
        assert text == segment["text"] and segment["file"].endswith("speech.wav")
        assert 0 <= float(start) < float(end)
    assert [segment["start"] for segment in cut] == sorted(segment["start"] for segment in cut)
    assert [segment["segment"] for segment in cut] == sorted({segment["segment"] for segment in cut})
    rules = EndpointRules(rule3_min_utterance_length=0.9)
    engine = StreamingRecognizer.load(exp, search=GreedyOptions(-1), endpoints=rules)
    continued = [segment.continues_word for segment in simulate(engine, wave).segments if segment.text]
    assert [segment["continues_word"] for segment in cut] == continued and any(continued)
    whole = run(stream, exp, tmp_path / "speech.wav", "--no-endpoints", "--json").output.splitlines()
    assert len(whole) == 1


def test_from_the_microphone_each_sentence_is_a_result(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = np.concatenate([bursts(1.5, 1), np.zeros(24000, dtype=np.float32), bursts(1.0, 2)])
    packets = [(16000, wave[start : start + 1600]) for start in range(0, len(wave), 1600)]
    monkeypatch.setattr("kdasr.recognition.microphone.microphone", lambda device: iter(packets))
    monkeypatch.setattr("kdasr.recognition.microphone.check_microphone", lambda device: None)
    rules = ("--rule3-min-utterance-length", 0.9, "--json")
    cut = [json.loads(line) for line in run(stream, exp, "--mic", *rules).output.splitlines()]
    assert len(cut) > 2 and {segment["file"] for segment in cut} == {None}
    assert len(run(stream, exp, "--mic", "--no-endpoints", "--json").output.splitlines()) == 1
    # Under a full context all is heard at the end.
    assert len(run(stream, exp, "--mic", "--context", "full", "--json").output.splitlines()) == 1
    with pytest.raises(UserError, match="endpoints need a stream that is recognized chunk"):
        run(stream, exp, "--mic", "--context", "full", "--endpoints")
