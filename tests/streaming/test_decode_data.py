"""What `kdasr decode` makes of data that changes or is not as it should be."""

import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import soundfile
import torch
from click.testing import CliRunner
from experiment_folder import prepare_part, write_experiment

from kdasr.cli.decode import command as decode
from kdasr.testing import tone, write_corpus

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
