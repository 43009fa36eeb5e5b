"""`kdasr corpus text` and `kdasr train` of a language model, as a user runs them."""

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import kdasr

from kdasr.checkpoint import load_checkpoint
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.corpora.synthetic.plan import lm_sentences, make_plan
from kdasr.corpora.synthetic.sizes import SIZES
from kdasr.data import cut_index
from kdasr.data.folder import load_cuts
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.tokens import prepare_tokens
from kdasr.experiment.config import LanguageModelExperiment
from kdasr.experiment.recipe_file import load_any_experiment
from kdasr.language_model.scorer import load_language_model
from kdasr.language_model.text import transcript_sources
from kdasr.testing import random_text, write_corpus

CONF = Path(__file__).parents[2] / "egs" / "librispeech" / "conf" / "lm"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    corpus = write_corpus(folder / "corpus")
    prepare_corpus(
        PrepareOptions(
            corpus_dir=corpus, out_dir=folder, parts=("train-clean-100", "dev-clean"), speeds=(1.0,)
        )
    )
    prepare_tokens(folder, 24)
    tokenizer = Tokenizer.load(folder / "tokens")
    drawn = (random_text(1 + seed % 5, seed) for seed in range(1000))
    lines = list(islice((line for line in drawn if tokenizer.unk_id not in tokenizer.encode(line)), 80))
    (folder / "text.txt").write_text("\n".join([*lines, "", "ÜBER", "ONE " * 500]))
    return folder


def recipe(prepared: Path, folder: Path, **changes: Any) -> Path:
    content = {
        "kind": "language_model",
        "data": {"dir": str(prepared), "train_text": [str(prepared / "text.txt")], "batch_pieces": 200},
        "model": {"num_layers": 1, "dim": 16, "num_heads": 2, "ffn_dim": 32, "context": 12},
        "training": {"accelerator": "cpu", "num_threads": 1, "log_every": 2, "validate_every": 2},
        "stages": [{"name": "train", "num_steps": 4}],
    }
    path = folder / "lm.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def refusal(prepared: Path, folder: Path, **changes: Any) -> str:
    result = kdasr("train", "--config", recipe(prepared, folder, **changes), "--exp", folder / "exp")
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp = tmp_path_factory.mktemp("exp") / "lm"
    result = kdasr("train", "--config", recipe(data, exp.parent), "--exp", exp)
    assert result.exit_code == 0, result.output
    return exp


def test_a_folder_holds_all_that_describes_the_run(trained: Path, data: Path) -> None:
    assert {path.name for path in trained.iterdir()} >= {
        *("config.yaml", "environment.json", "tokens", "checkpoints", "train.log", "metrics.jsonl"),
        "tensorboard",
    }
    log = (trained / "train.log").read_text()
    for said in (
        *("system 'lm'", "training: 80 sentences", "dev: ", "dev perplexity", "per word"),
        *("1 of 83 lines left out, empty", "1 of 83 lines left out, longer than 200 pieces"),
        "1 of 83 lines left out, special symbols, or characters unknown",
    ):
        assert said in log, said
    assert "real time" not in log and "WER" not in log
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    valid = [row for row in rows if row["split"] == "valid"]
    assert [row["step"] for row in valid] == [2, 4]
    assert valid[1]["ppl"] < valid[0]["ppl"] < 24 and valid[0]["word_ppl"] > valid[0]["ppl"]
    checkpoint = load_checkpoint(trained / "checkpoints" / "best.pt")
    assert checkpoint["model_config"]["vocab_size"] == 24 and checkpoint["train_steps"] == 4


def test_the_same_command_goes_on_or_says_that_all_is_done(trained: Path, data: Path, tmp_path: Path) -> None:
    config = recipe(data, tmp_path)
    assert kdasr("train", "--config", config, "--exp", trained).exit_code == 0
    assert "already trained: train" in (trained / "train.log").read_text().splitlines()[-1]
    other = kdasr("train", "--config", config, "--exp", trained, "--override", "model.dim=8")
    assert "model.dim: 16" in str(other.exception)


def test_checkpoints_average_and_load(trained: Path) -> None:
    result = kdasr("average", trained, "--last", 2)
    assert result.exit_code == 0, result.output
    tokenizer = Tokenizer.load(trained / "tokens")
    averaged = load_language_model(trained, tokenizer, "here")
    kept = [load_checkpoint(path)["model"] for path in sorted((trained / "checkpoints").glob("train-*.pt"))]
    mean = torch.stack([state["embedding.weight"] for state in kept]).mean(dim=0)
    torch.testing.assert_close(averaged.embedding.weight.data, mean)


def test_dev_text_may_be_a_file(data: Path, tmp_path: Path) -> None:
    text = tmp_path / "dev.txt"
    text.write_text("ONE TWO\nTHREE\n")
    section = {"dir": str(data), "train_text": [str(data / "text.txt")], "dev_text": [str(text)]}
    config = recipe(data, tmp_path, data=section)
    assert kdasr("train", "--config", config, "--exp", tmp_path / "exp").exit_code == 0
    assert "dev: 2 sentences" in (tmp_path / "exp" / "train.log").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "classifier"}, "kind: 'classifier'"),
        ({"model": {"encoder": {}}}, "encoder"),
        ({"stages": []}, "option 'stages' is []"),
        ({"stages": [{"loss_weights": {"rnnt": 1.0}}]}, "known terms: nll"),
        ({"stages": [{"plateau_patience": 2}]}, "plateau_patience"),
        ({"model": {"vocab_size": 99}}, "vocab_size is 99, the tokenizer has 24"),
    ],
)
def test_a_wrong_recipe_is_refused(data: Path, tmp_path: Path, changes: dict, message: str) -> None:
    assert message in refusal(data, tmp_path, **changes)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"train_text": []}, "data.train_text"),
        ({"train_text": ["nowhere.txt"]}, "nowhere.txt: no such text file"),
        ({"batch_pieces": 0}, "data.batch_pieces' is 0; expected at least 1"),
        ({"max_pieces": 1}, "no usable sentence"),
        ({"dev_parts": ["dev-other"]}, "part 'dev-other' is not prepared"),
    ],
)
def test_wrong_data_are_refused(data: Path, tmp_path: Path, section: dict, message: str) -> None:
    full = {"dir": str(data), "train_text": [str(data / "text.txt")], **section}
    assert message in refusal(data, tmp_path, data=full)


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_any_experiment(path)
    assert isinstance(config, LanguageModelExperiment) and config.stages[0].loss_weights == {"nll": 1.0}


def test_as_much_text_as_asked_and_none_of_the_transcripts(tmp_path: Path) -> None:
    for name in ("a.txt", "a.txt.gz"):
        result = kdasr("corpus", "text", "--size", "tiny", "--sentences", 500, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()).decode().splitlines() == lines
    plan = make_plan(SIZES["tiny"], 1)
    assert len(lines) == 500 and not set(lines) & plan.transcripts
    beside_the_audio = list(lm_sentences(plan))
    assert len(beside_the_audio) == 300 and lines[:300] == beside_the_audio


def test_transcripts_are_read_line_by_line(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cut but one, by which a part is checked, is made of its line; and they can be read twice."""
    made, real = [], cut_index.parsed
    monkeypatch.setattr(cut_index, "parsed", lambda *given: made.append(given) or real(*given))
    parts = ["train-clean-100", "dev-clean"]
    sources = transcript_sources(data, parts)
    for source, part in zip(sources, parts, strict=True):
        texts = [cut.supervisions[0].text for cut in load_cuts(data, part)]
        assert list(source.lines) == list(source.lines) == texts and len(texts) > 1
        assert source.name == part
    assert len(made) == len(parts)
    monkeypatch.setattr("lhotse.CutSet.from_jsonl", lambda *_: pytest.fail("cuts are read"))
    transcript_sources(data, parts)
    with pytest.raises(UserError, match="part 'dev-other' is not prepared"):
        transcript_sources(data, ["dev-other"])
