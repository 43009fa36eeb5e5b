"""`kdasr prepare` and `kdasr tokens` as a user meets them: one line and status 1 when something is wrong."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kdasr.cli.main import main
from kdasr.data.folder import load_cuts
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
    # A model that somebody else put there is not replaced.
    (data / "tokens" / "tokens.json").unlink()
    model = (data / "tokens" / "bpe.model").read_bytes()
    status, err = run("tokens", "--data", data, "--vocab-size", 17)
    assert status == 1 and "did not write what is there" in err and err.count("\n") == 1
    assert (data / "tokens" / "bpe.model").read_bytes() == model


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


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "data: {vocab_size: 40, speed_perturbation: [1.0]}\n"
        "systems: {short: {}, long: {stages: [{num_steps: 1}, {name: last, num_steps: 1}]}}\n"
    )
    return path


def test_overrides_reach_features_and_pieces(run: Run, tmp_path: Path, recipe: Path) -> None:
    corpus, data = write_corpus(tmp_path / "LibriSpeech", ("train-clean-5",)), tmp_path / "data"
    # The last one is of a single system.
    changes = {"data.speed_perturbation": "[0.9, 1.0]", "data.vocab_size": 18, "text.normalize": "lower"}
    changes |= {"seed": 3, "stages.1.num_steps": 5}
    overrides = [word for key, value in changes.items() for word in ("--override", f"{key}={value}")]
    prepare = ("prepare", "--corpus-dir", corpus, "--parts", "train-clean-5", "--out", data)
    assert run(*prepare, "--config", recipe, *overrides)[0] == 0
    slow = ["sp0.9" in cut.id for cut in load_cuts(data, "train-clean-5")]
    assert sum(slow) == len(slow) / 2 > 0
    assert run("tokens", "--data", data, "--config", recipe, *overrides)[0] == 0
    pieces = (data / "tokens" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert len(pieces) == 18 and not any(piece.isupper() for piece in pieces[3:])
    # What the command line itself says goes over the recipe.
    assert run("tokens", "--data", data, "--config", recipe, *overrides, "--vocab-size", 17)[0] == 0
    assert len((data / "tokens" / "tokens.txt").read_text(encoding="utf-8").splitlines()) == 17


@pytest.mark.parametrize("verb", ["prepare", "tokens"])
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.vocab_sise=20", "option 'data.vocab_sise': Key 'vocab_sise' not in 'DataConfig'"),
        ("data.vocab_size=many", "option 'data.vocab_size': Value 'many' of type 'str' could not be"),
        ("data.vocab_size=3", "option 'data.vocab_size' is 3; expected at least 4"),
        ("text.normalize=shouted", "text.normalize: no rule 'shouted'"),
        ("dada.vocab_size=20", "option 'dada': Key 'dada' not in"),
        ("training.log_every=often", "option 'training.log_every': Value 'often'"),
        ("seed", "override 'seed': expected KEY=VALUE"),
    ],
)
def test_wrong_overrides_are_refused_as_in_training(
    run: Run, tmp_path: Path, recipe: Path, verb: str, override: str, message: str
) -> None:
    places = {
        "prepare": ("--corpus-dir", tmp_path, "--parts", "dev", "--out", tmp_path / "data"),
        "tokens": ("--data", tmp_path),
        "train": ("--system", "short", "--exp", tmp_path / "exp"),
    }
    said = [run(name, *places[name], "--config", recipe, "--override", override) for name in (verb, "train")]
    assert said[0] == said[1] and said[0][0] == 1 and message in said[0][1] and str(recipe) in said[0][1]
    assert not (tmp_path / "data").exists()


def test_overrides_need_a_recipe(run: Run, tmp_path: Path) -> None:
    status, err = run("tokens", "--data", tmp_path, "--override", "data.vocab_size=20")
    assert (status, err) == (
        1,
        "kdasr: error: --override changes an option of a recipe: give --config, too\n",
    )


@pytest.mark.parametrize("verb", ["prepare", "tokens"])
def test_help(run: Run, verb: str) -> None:
    assert run(verb, "--help")[0] == 0
