"""What `kdasr decode` makes of data that changes or is not as it should be."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from experiment_folder import prepare_part, write_experiment
from lhotse.supervision import AlignmentItem

from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream_command
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import train_tokenizer
from kdasr.evaluation import loudness
from kdasr.evaluation.evaluate import load_recording, make_record, summarize_records
from kdasr.evaluation.wer import character_errors
from kdasr.recognition.audio import load_audio
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result, Token
from kdasr.recognition.simulate import Simulation
from kdasr.testing import dummy_cuts, tone, write_corpus

PART = "test-clean"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An experiment in `exp`, and a part of one wav file with word times in `data`."""
    write_experiment(tmp_path / "exp")
    write_corpus(tmp_path / "corpus", [PART], speakers=1, utterances=1, alignments_dir=tmp_path / "times")
    flac = tmp_path / "corpus" / PART / "100" / "1" / "100-1-0000.flac"
    soundfile.write(flac.with_suffix(".wav"), soundfile.read(flac)[0], 16000)
    flac.unlink()
    prepare_part(tmp_path / "corpus", tmp_path / "data", PART, tmp_path / "times")
    return tmp_path


class Decoded(NamedTuple):
    summary: dict[str, Any]
    utterances: list[dict[str, Any]]
    output: str


def run(root: Path, *options: object) -> Decoded:
    """Decode whole utterances."""
    threads = torch.get_num_threads()
    arguments = [root / "exp", "--data", root / "data", "--parts", PART, "--mode", "offline", *options]
    result = CliRunner().invoke(decode, [str(argument) for argument in arguments])
    torch.set_num_threads(threads)
    if result.exception:
        raise result.exception
    folder = root / "exp" / "decode" / "offline" / PART
    lines = (folder / "utterances.jsonl").read_text().split("\n")[:-1]
    summary = json.loads((folder / "summary.json").read_text())
    return Decoded(summary, [json.loads(line) for line in lines], result.output)


def test_replaced_audio_is_decoded_again(root: Path) -> None:
    first = run(root).summary
    again = run(root)
    assert again.summary == first and "already decoded" in again.output
    file = root / "corpus" / PART / "100" / "1" / "100-1-0000.wav"
    soundfile.write(file, tone(soundfile.info(file).duration, seed=77), 16000)
    second = run(root)
    assert second.summary["audio_fingerprint"] != first["audio_fingerprint"]
    assert second.summary["cuts_sha256"] == first["cuts_sha256"]
    assert "takes the place of results with another audio_fingerprint" in second.output


@pytest.mark.parametrize(("rule", "is_other"), [("none", False), ("upper", False), ("lower", True)])
def test_transcripts_that_the_system_writes_otherwise_are_counted(
    root: Path, rule: str, is_other: bool
) -> None:
    """They are in capitals, and the system has no rule."""
    record = json.loads((root / "data" / "prepare.json").read_text())
    (root / "data" / "prepare.json").write_text(json.dumps({**record, "text": {"normalize": rule}}))
    said = "the system has text.normalize none, which counts: it leaves 1 of 1 transcripts otherwise"
    assert (said in run(root).output.replace("\n", " ")) == is_other


@pytest.mark.parametrize("start", [-3.0, 60.0, float("nan")])
def test_word_times_that_cannot_be_true_give_no_latency(root: Path, start: float) -> None:
    path = root / "data" / f"cuts_{PART}.jsonl.gz"
    with gzip.open(path, "rt") as file:
        cut = json.loads(file.read())
    cut["supervisions"][0]["alignment"]["word"][0][1] = start
    with gzip.open(path, "wt") as file:
        file.write(json.dumps(cut) + "\n")
    decoded = run(root)
    assert decoded.summary["faulty_word_times"] == 1
    assert (
        "1 of 1 utterances have word times that cannot be true, so no latency: 100-1-0000 ('"
        in decoded.output
    )
    assert decoded.utterances[0]["ref_words"] == [] and decoded.summary["onset"] == "energy"
    assert "NaN" not in json.dumps(decoded.summary)


def test_a_perfect_recognizer_has_no_error_and_true_times(tmp_path: Path) -> None:
    text = "CAFE\u0301 \uff11\u200bNº\u0085x…"
    tokenizer = train_tokenizer([text], 40, tmp_path, at_most=True)
    (cut,) = dummy_cuts(1, 2.0, 2.0, with_features=False)
    symbols = ["CAFE\u0301", "\uff11", "Nº", "x…"]
    items = [AlignmentItem(symbol, 0.1 + 0.4 * index, 0.3) for index, symbol in enumerate(symbols)]
    cut.supervisions = [replace(cut.supervisions[0], text=text).with_alignment("word", items)]
    recording = load_recording(cut, tokenizer)
    assert recording.ref == ["CAFÉ", "1", "No", "x..."]
    assert [(word.word, word.start) for word in recording.ref_words] == [
        ("CAFÉ", 0.1), ("1", 0.5), ("No", 0.9), ("x...", 1.3),
    ]  # fmt: skip
    pieces = [tokenizer.piece(index) for index in tokenizer.encode(text)]
    tokens = [Token(0, piece, frame, 2.0, -0.1, -0.1) for frame, piece in enumerate(pieces)]
    record = make_record(
        recording, Simulation(Result(tokens, is_final=True, frame_seconds=0.04), None, 0.1), None
    )
    summary = summarize_records([record])
    assert (summary["wer"], summary["cer"], summary["measure"]) == (0.0, 0.0, "wer")
    assert (summary["num_words"], summary["num_chars"]) == (4, len("CAFÉ 1 No x..."))
    assert summary["emission_delay_ms"]["count"] == 4


def test_the_summary_says_how_text_was_normalized(root: Path) -> None:
    summary, (record,), output = run(root)
    assert summary["normalization"] == "nmt_nfkc" and "CER %" in output
    counts = character_errors(record["ref"].split(), record["hyp"].split())
    assert summary["cer"] == pytest.approx(100 * counts.total / counts.words)
    assert summary["char_errors"]["sub"] == counts.substitutions


def test_error_rates_at_several_gains(root: Path) -> None:
    folder = root / "exp" / "decode" / "offline" / PART
    summary = run(root, "--gain-db", "-40,20").summary
    first = json.loads((folder / "gain.json").read_text())
    rates = {entry["gain_db"]: entry for entry in first["results"]}
    assert list(rates) == [-40.0, 0.0, 20.0]
    assert (rates[0.0]["wer"], rates[0.0]["cer"]) == (summary["wer"], summary["cer"])
    # The same as decoding a part that is so much louder, cut at full scale.
    file = root / "corpus" / PART / "100" / "1" / "100-1-0000.wav"
    wave, rate = soundfile.read(file, dtype="float32")
    for gain in (-40.0, 20.0):
        soundfile.write(file, (wave * 10 ** (gain / 20)).clip(-1, 1), rate, subtype="FLOAT")
        louder = run(root)
        assert (louder.summary["wer"], louder.summary["cer"]) == (rates[gain]["wer"], rates[gain]["cer"])
        assert not (folder / "gain.json").exists()  # it was of other audio
        level = summary["signal"]["level_dbfs"]["mean"] + gain
        assert louder.summary["signal"]["faults"] == {"too quiet" if gain < 0 else "clipped": 1}
        fault = f"faulty (1, such as 100-1-0000 too quiet: speech at {level:.0f} dBFS"
        assert (f"{PART}: the audio of 1 of 1 utterances is {fault}" in louder.output) is (gain < 0)


def test_gains_that_are_measured_stay(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(root, "--gain-db", "6")
    monkeypatch.setattr(loudness, "_Louder", None)
    assert run(root, "--gain-db", "6 0").summary
    with pytest.raises(TypeError):
        run(root, "--gain-db", "6 7")
    for text in ("loud", "100", "nan", " "):
        with pytest.raises(UserError, match=f"--gain-db '{text}': expected numbers of dB"):
            run(root, "--gain-db", text)


def test_a_stream_tells_what_is_wrong_with_its_input(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    speech = tone(2.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([speech, -0.9 * speech], axis=1), 16000)
    soundfile.write(tmp_path / "quiet.wav", 0.001 * speech, 16000, subtype="FLOAT")
    files = [str(tmp_path / name) for name in ("stereo.wav", "quiet.wav")]
    threads = torch.get_num_threads()
    result = CliRunner().invoke(stream_command, [str(root / "exp"), *files])
    torch.set_num_threads(threads)
    assert f"{files[1]}: too quiet: speech at -73 dBFS" in result.stderr
    assert "speech at -13 dBFS" in result.stdout and "warning" not in result.stdout
    canceled = "channels cancel when they are mixed: channel 1 of 2 is taken alone"
    assert result.stderr.count(f"{files[0]}: {canceled}") == 1
    load_audio(Path(files[0]))
    assert f"{files[0]}: {canceled}" in caplog.text
    recognizer = StreamingRecognizer.load(root / "exp")
    for warn in (True, False):
        caplog.clear()
        stream = recognizer.create_stream()
        assert stream.faults == []
        stream.accept_waveform(16000, 0.001 * speech)
        stream.input_finished(warn=warn)
        assert stream.faults[0].startswith("too quiet: speech at -73 dBFS")
        assert ("input too quiet: speech at -73 dBFS" in caplog.text) is warn
