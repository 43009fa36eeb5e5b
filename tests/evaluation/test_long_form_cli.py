"""`kdasr decode --long-form` on a small corpus, and long files in `kdasr stream`."""

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import Result
from experiment_folder import prepare_part, run, write_experiment
from streaming_helpers import bursts

from kdasr.cli.decode import command as decode
from kdasr.cli.stream import command as stream
from kdasr.common.errors import UserError
from kdasr.evaluation import long_form_run
from kdasr.recognition.audio import AudioFile
from kdasr.testing import write_corpus


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment in `exp`, and in `data` a part with word times and one without."""
    folder = tmp_path_factory.mktemp("long-form")
    write_experiment(folder / "exp")
    timed = write_corpus(folder / "timed", ["test-clean"], utterances=2, alignments_dir=folder / "times")
    prepare_part(timed, folder / "data", "test-clean", folder / "times")
    prepare_part(write_corpus(folder / "plain", ["test-other"], speakers=1), folder / "data", "test-other")
    return folder


def long_form(root: Path, out: Path, *options: object, part: str = "test-clean") -> Result:
    arguments = (root / "exp", "--data", root / "data", "--parts", part, "--out", out)
    return run(decode, *arguments, "--long-form", "--minutes", 0.1, *options)


def summary(out: Path, part: str = "test-clean") -> dict[str, Any]:
    return json.loads((out / "long-form" / part / "summary.json").read_text())


def test_a_part_is_decoded_in_every_condition_and_once(root: Path, tmp_path: Path) -> None:
    printed = long_form(root, tmp_path, "--gaps", "0,0.5").output
    found = summary(tmp_path)
    conditions = found["conditions"]
    assert [(c["gap_s"], c["noise"], c["endpoints"]) for c in conditions] == [
        (gap, noise, endpoints)
        for gap, noise in ((0.0, "none"), (0.5, "quiet"), (0.5, "silence"))
        for endpoints in (False, True)
    ]
    single = [
        json.loads(line) for line in (tmp_path / "long-form/test-clean/single.jsonl").read_text().splitlines()
    ]
    assert len(single) == 4
    for condition in conditions:
        assert condition["num_utterances"] == 4 and condition["minutes"] == 0.1
        wrong = sum(condition[kind] for kind in ("substitutions", "deletions", "insertions"))
        assert condition["wer"] == pytest.approx(100 * wrong / condition["words"])
        alone = [
            sum(one["utterances"][0]["errors"][kind] for kind in ("sub", "ins", "del")) for one in single
        ]
        assert condition["single_wer"] == pytest.approx(100 * sum(alone) / condition["words"])
    assert (found["system"], found["part"], found["minutes"]) == ("student", "test-clean", 0.1)
    assert "test-clean, student" in printed and "0.5 s silence" in printed
    assert "by alignment" in " ".join(printed.split())
    streams = tmp_path / "long-form/test-clean/streams.jsonl"
    before = streams.read_bytes()
    streams.write_text("mine")
    long_form(root, tmp_path, "--gaps", "0,0.5")
    assert streams.read_text() == "mine"
    long_form(root, tmp_path, "--gaps", "0,0.5", "--force")
    assert streams.read_bytes() == before
    long_form(root, tmp_path, "--gaps", "0.5", "--gap-noise", "quiet", "--max-utterances", 3)
    assert [c["num_utterances"] for c in summary(tmp_path)["conditions"]] == [3, 3]


def test_processes_that_share_a_part_write_what_one_writes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They need not run at the same time; the first one is killed once, in the middle of its streams."""
    options = ("--gaps", "0,0.5", "--streams", "2")
    table = long_form(root, tmp_path / "whole", *options).output
    shared, join = tmp_path / "shared", long_form_run.join
    monkeypatch.setenv("WORLD_SIZE", "2")

    def run_rank(rank: int) -> str:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        return long_form(root, shared, *options).output

    calls = count(1)

    def stopping(*arguments: Any) -> Any:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return join(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(long_form_run, "join", stopping)
        with pytest.raises((KeyboardInterrupt, SystemExit, AssertionError)):
            run_rank(0)
    folder = Path("long-form") / "test-clean"
    assert (shared / folder / "streams.jsonl.partial-0").read_text()
    assert "test-clean" not in run_rank(1) and not (shared / folder / "summary.json").exists()
    assert run_rank(0) == table
    assert records(shared / folder) == records(tmp_path / "whole" / folder)


def records(folder: Path) -> dict[str, str]:
    """Its files, without confidences, whose last digit depends on where in memory the samples lie."""
    return {path.name: re.sub('"confidence": [0-9.]+', "", path.read_text()) for path in folder.iterdir()}


def test_without_word_times_latency_counts_from_energy(root: Path, tmp_path: Path) -> None:
    printed = long_form(root, tmp_path, "--gaps", "0.5", "--gap-noise", "quiet", part="test-other").output
    assert "by energy" in " ".join(printed.split())
    for condition in summary(tmp_path, "test-other")["conditions"]:
        assert condition["onset"] == "energy"
        assert condition["emission_delay_ms"]["count"] == 0


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        (["--long-form", "--gaps", "0,long"], "'long' is not a number"),
        (["--long-form", "--gaps", "-1"], "-1: expected 0 to 60"),
        (["--long-form", "--gaps", "100"], "100: expected 0 to 60"),
        (["--long-form", "--minutes", "0"], "streams of 0 minutes"),
        (["--long-form", "--mode", "offline"], "--long-form needs --mode streaming"),
        (["--long-form", "--search", "beam", "--nbest", "2"], "--nbest needs utterances one by one"),
        (["--gaps", "1"], "--gaps needs --long-form"),
        (["--gap-noise", "quiet"], "--gap-noise needs --long-form"),
        (["--minutes", "1"], "--minutes needs --long-form"),
    ],
)
def test_wrong_options_are_named(root: Path, options: list[str], culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        run(decode, root / "exp", "--data", root / "data", "--parts", "test-clean", *options)


def test_a_full_context_has_no_long_form_and_says_so(root: Path, tmp_path: Path) -> None:
    result = long_form(root, tmp_path, "--context", "full")
    assert "student needs the end of a stream under the context 'full'" in " ".join(result.output.split())
    assert not (tmp_path / "long-form").exists()


def test_a_file_is_never_in_memory_as_a_whole(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "long.flac", np.tile(bursts(2.0), 3), 16000)
    sizes = []
    read = AudioFile.read
    monkeypatch.setattr("kdasr.recognition.audio._BLOCK", 2000)
    monkeypatch.setattr(AudioFile, "read", lambda file, count: sizes.append(count) or read(file, count))
    lines = run(stream, root / "exp", tmp_path / "long.flac").output.splitlines()
    assert lines[0].endswith("long.flac  6.00 s")
    assert set(sizes) == {2000, 1600}
