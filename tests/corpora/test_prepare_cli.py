"""`kdasr prepare` and `kdasr tokens` as a user meets them: one line and status 1 when something is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdasr.cli.main import main
from kdasr.testing import write_corpus

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: (exit status, stderr)."""

    def run_command(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["kdasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run_command


def test_prepare_then_tokens(run: Run, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "LibriSpeech", ("train-clean-5", "dev-clean-2"))
    data = tmp_path / "data"
    parts = ["--parts", "train-clean-5, dev-clean-2"]
    status, _ = run("prepare", "--corpus-dir", corpus, *parts, "--out", data, "--speed", "1")
    assert status == 0
    assert sorted(path.name for path in data.glob("cuts_*")) == [
        "cuts_dev-clean-2.jsonl.gz", "cuts_train-clean-5.jsonl.gz",
    ]  # fmt: skip
    assert run("tokens", "--data", data, "--vocab-size", 18)[0] == 0
    assert (data / "tokens" / "tokens.txt").read_text(encoding="utf-8").startswith("<blk> 0\n<sos/eos> 1\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--parts", "test-other"), "no part 'test-other'"),
        (("--parts", "train-clean-5"), "no transcripts"),
        (("--parts", "dev-clean", "--speed", "fast"), "--speed: expected factors"),
        (("--parts", "dev-clean", "--alignments-dir", "/nowhere"), "/nowhere: no such alignments folder"),
        (("--parts", " "), "--parts: name at least one part"),
    ],
)
def test_bad_input_is_one_line(run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    corpus = write_corpus(tmp_path / "LibriSpeech", ("dev-clean",))
    (corpus / "train-clean-5" / "1").mkdir(parents=True)
    status, err = run("prepare", "--corpus-dir", corpus, "--out", tmp_path / "data", *arguments)
    assert status == 1
    assert err.startswith("kdasr: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_tokens_without_data_is_one_line(run: Run, tmp_path: Path) -> None:
    status, err = run("tokens", "--data", tmp_path, "--vocab-size", 50)
    assert status == 1
    assert err == f"kdasr: error: {tmp_path}: no training part is prepared: run `kdasr prepare` first\n"


@pytest.mark.parametrize("verb", ["prepare", "tokens"])
def test_help(run: Run, verb: str) -> None:
    assert run(verb, "--help")[0] == 0
