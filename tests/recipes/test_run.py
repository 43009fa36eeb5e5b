"""The recipe itself, on the tiny corpus: all stages, skipping of finished work, and wrong options."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from warm_kdasr import warm_folder

from kdasr.bundle import Bundle, load_bundle
from kdasr.checkpoint import load_checkpoint
from kdasr.data.features import load_cut_samples
from kdasr.data.folder import load_cuts
from kdasr.decoding.search import GreedyOptions
from kdasr.export.bundle import open_bundle
from kdasr.export.client import SherpaClient
from kdasr.export.reference import decode_windows, emissions_of
from kdasr.recognition.features import whole_features
from kdasr.recognition.recognizer import StreamingRecognizer

ROOT = Path(__file__).parents[2]
RUN = ROOT / "egs" / "librispeech" / "run.sh"
SYSTEMS = ("teacher", "streaming", "streaming-init", "two-stage")


def run_recipe(*arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(warm_folder()), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(RUN), *arguments],
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("recipe")
    result = run_recipe(
        "--size", "tiny", "--data", str(folder / "data"), "--exp", str(folder / "exp"), "--jobs", "2"
    )
    return folder, result


def test_all_stages_lead_to_a_report(tiny: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = tiny
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads((folder / "exp" / "report" / "results.json").read_text())
    assert {(row["system"], row["part"]) for row in rows} >= {
        (system, part) for system in SYSTEMS for part in ("test-clean", "test-other")
    }
    steps = {row["system"]: row["train_steps"] for row in rows}
    assert steps["streaming"] == steps["streaming-init"] == steps["two-stage"] > 0
    # Pauses of 0, 0.3, 1 and 3 s, with and without endpoints; the teacher hears a stream at its end.
    conditions = {(row["system"], row["part"]): len(row["long_form"]) for row in rows}
    assert all(number == (0 if system == "teacher" else 8) for (system, _), number in conditions.items())
    page = (folder / "exp" / "report" / "index.html").read_text()
    assert all(system in page for system in SYSTEMS)


def test_sherpa_onnx_hears_what_we_hear_in_every_test_utterance(
    tiny: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, result = tiny
    assert result.returncode == 0, result.stderr
    kinds = ("one stream", "long streams, 1 s of quiet, endpoint resets")
    for part in ("test-clean", "test-other"):
        utterances = len(load_cuts(folder / "data", part))
        log = (folder / "exp" / "log" / f"check-export-{part}.txt").read_text()
        assert utterances > 0 and all(line in result.stdout for line in log.splitlines())
        assert log.count(f"{utterances} of {utterances} utterances identical") == 1
        assert all(f"greedy search, {kind}: {utterances} of {utterances} " in log for kind in kinds)
    assert (folder / "exp" / "two-stage" / "export" / "encoder.int8.onnx").is_file()


def test_the_exported_student_says_the_same_when_it_is_made_to_speak(
    tiny: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """Twenty steps teach a student to say nothing; a penalty on the blank gets pieces out of it."""
    folder, result = tiny
    assert result.returncode == 0, result.stderr
    system = load_bundle(folder / "exp" / "two-stage")
    cuts = load_cuts(folder / "data", "test-clean")
    waves = [load_cut_samples(cut).numpy() for cut in cuts]
    penalty = blank_lead(system, waves[0])
    client = SherpaClient(open_bundle(folder / "exp" / "two-stage" / "export"), blank_penalty=penalty)
    recognizer = StreamingRecognizer(system, search=GreedyOptions(blank_penalty=penalty))
    num_pieces = 0
    for wave_N in waves:
        theirs = client.decode(wave_N)
        ours = emissions_of(recognizer, decode_windows(recognizer, wave_N, theirs.num_windows))
        assert theirs.emissions == ours
        num_pieces += len(ours)
    assert num_pieces > 0


@torch.no_grad()
def blank_lead(system: Bundle, wave_N: np.ndarray) -> float:
    """By how much the blank's logit leads at the start, in the median of all frames."""
    model = system.model
    features_BTF = torch.from_numpy(whole_features(16000, wave_N, model.geometry)).unsqueeze(0)
    lens_B = torch.tensor([features_BTF.shape[1]])
    encoded = model.joiner.project_encoder(model.encode(features_BTF, lens_B, system.context).encoded_BTD)
    start = model.joiner.project_predictor(model.predictor.predict(model.predictor.start_state(1)))
    logits_UV = model.joiner(encoded, start)[0]
    return float((logits_UV[:, 0] - logits_UV[:, 1:].amax(dim=1)).median())


def test_a_second_run_trains_nothing_again(tiny: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = tiny
    assert result.returncode == 0, result.stderr
    weights = folder / "exp" / "two-stage" / "checkpoints" / "last.pt"
    before = weights.stat().st_mtime_ns
    again = run_recipe(
        "--size",
        "tiny",
        "--data",
        str(folder / "data"),
        "--exp",
        str(folder / "exp"),
        "--stage",
        "6",
        "--stop-stage",
        "6",
    )
    assert again.returncode == 0, again.stderr
    assert weights.stat().st_mtime_ns == before


def test_librispeech_path_takes_any_subset_of_parts(
    tiny: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, result = tiny
    assert result.returncode == 0, result.stderr
    corpus = tmp_path / "elsewhere"
    for part in ("train-clean-100", "dev-clean", "test-clean"):
        shutil.copytree(folder / "data" / "corpus" / "LibriSpeech" / part, corpus / part)
    other = run_recipe(
        *("--corpus", "librispeech", "--size", "tiny", "--corpus-dir", str(corpus)),
        *("--parts", "train-clean-100 dev-clean test-clean", "--data", str(tmp_path / "data")),
        *("--exp", str(tmp_path / "exp"), "--systems", "teacher", "--stop-stage", "8"),
        *("--override", "stages=[{name: train, num_steps: 2}]"),
    )
    assert other.returncode == 0, other.stdout + other.stderr
    summary = json.loads((tmp_path / "exp/teacher/decode/streaming/test-clean/summary.json").read_text())
    assert summary["onset"] == "energy"


def test_an_interrupted_download_goes_on_and_a_finished_one_is_used(tmp_path: Path) -> None:
    """With a stand-in for `kdasr`, whose first download stops after half a part."""
    (tmp_path / "kdasr").write_text(
        f"#!/bin/bash\necho $* >>{tmp_path}/calls\nmkdir -p {tmp_path}/LibriSpeech/dev-clean\n"
        f"[[ $(wc -l <{tmp_path}/calls) != 1 ]]\n"
    )
    (tmp_path / "kdasr").chmod(0o755)
    where = ["--corpus-dir", str(tmp_path / "LibriSpeech"), "--stage", "0", "--stop-stage", "0"]
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    found = [
        subprocess.run(
            [str(RUN), "--corpus", "librispeech", *where], env=environment, capture_output=True, check=False
        )
        for _ in range(3)
    ]
    assert [result.returncode for result in found] == [1, 0, 0]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and all(call.startswith("corpus librispeech") for call in calls)
    assert b"using" in found[2].stdout and not list((tmp_path / "LibriSpeech").glob(".*"))


def test_a_record_of_files_that_are_gone_is_not_shown(tmp_path: Path) -> None:
    read, record = tmp_path / "cuts", tmp_path / "log" / "record.txt"
    once = [str(RUN.parent / "local" / "once.sh"), str(record), str(read), "--", "cat", str(read)]
    read.write_text("heard")
    os.utime(read, (1, 1))
    assert subprocess.run(once, capture_output=True, check=True).stdout == b"heard"
    assert subprocess.run([*once[:-2], "false"], capture_output=True, check=True).stdout == b"heard"
    read.unlink()
    assert subprocess.run(once, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (["--corpus", "switchboard"], "switchboard"),
        (["--size", "gigantic"], "gigantic"),
        (["--stage", "two"], "two"),
        (["--stage", "12"], "--stage 12: the last stage is 11"),
        (["--stage", "5", "--stop-stage", "4"], "--stage 5: nothing to do up to --stop-stage 4"),
        (["--corpus", "librispeech", "--parts", "test-clean"], "test-clean"),
        (
            ["--corpus", "librispeech", "--corpus-dir", "none/LibriSpeech"],
            "none/LibriSpeech: no such folder",
        ),
        (["--corpus", "librispeech", "--corpus-dir", "LibriSpech"], "LibriSpech: no such folder"),
        (["--corpus", "cuts"], '--cuts "train=FILE_OR_FOLDER dev=FILE_OR_FOLDER'),
        (
            ["--corpus", "cuts", "--size", "tiny", "--cuts", "train=a test=b"],
            "--cuts train=a test=b: no dev part",
        ),
        (["--corpus-dir", "."], "--corpus-dir is for --corpus librispeech, not synthetic"),
        (["--corpus", "librispeech", "--cuts", "train=a"], "--cuts is for --corpus cuts, not librispeech"),
        (
            ["--corpus", "cuts", "--cuts", "train=a dev=b", "--parts", "dev"],
            "--parts is for --corpus synthetic or",
        ),
        (["--no-such-option", "1"], "--no-such-option"),
    ],
)
def test_wrong_options_name_the_culprit(arguments: list[str], culprit: str) -> None:
    result = run_recipe(*arguments)
    assert result.returncode == 1
    assert "error" in result.stderr and culprit in result.stderr


def test_it_takes_lhotse_cuts(tiny: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    """Those of a data folder, whose paths hold from that folder; two manifests for the training part."""
    data = tiny[0] / "data"
    files = [("train", "train-clean-100"), ("train", "train-clean-360"), ("dev", "dev-clean")]
    cuts = " ".join(f"{part}={data / f'cuts_{name}.jsonl.gz'}" for part, name in files)
    options = ["--size", "tiny", "--corpus", "cuts", "--cuts", cuts, "--stop-stage", "2"]
    result = run_recipe(*options, "--data", str(tmp_path / "data"), "--exp", str(tmp_path / "exp"))
    assert result.returncode == 0, result.stderr
    for part, names in (("train", ["train-clean-100", "train-clean-360"]), ("dev", ["dev-clean"])):
        theirs = {cut.id: cut.load_features() for name in names for cut in load_cuts(data, name)}
        ours = {cut.id: cut.load_features() for cut in load_cuts(tmp_path / "data", part)}
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(features, theirs[name]) for name, features in ours.items())
    assert (tmp_path / "data" / "tokens" / "tokens.txt").is_file()


def test_stopping_the_recipe_waits_until_trainings_have_saved(
    tiny: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """With the real command."""
    folder, result = tiny
    assert result.returncode == 0, result.stderr
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    options = ["--size", "tiny", "--data", str(folder / "data"), "--exp", str(tmp_path), "--jobs", "2"]
    endless = ["--override", "stages=[{name: train, num_steps: 1000000}]"]
    recipe = subprocess.Popen(
        [str(RUN), *options, "--stage", "3", "--stop-stage", "3", *endless],
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    metrics = tmp_path / "teacher" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert metrics.is_file()
    recipe.send_signal(signal.SIGINT)
    assert recipe.wait(timeout=60) == 130
    # The training has left its checkpoint and nothing of it runs any more.
    step = load_checkpoint(tmp_path / "teacher" / "checkpoints" / "last.pt")["train_steps"]
    assert step > 0
    rows = metrics.read_text()
    time.sleep(2)
    assert metrics.read_text() == rows
