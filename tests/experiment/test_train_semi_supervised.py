"""`kdasr train` with parts without transcripts, as a user runs it."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from command_line import kdasr

from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.tokens import prepare_tokens
from kdasr.testing import tiny_config, write_corpus

PARTS = ("train-clean-100", "train-clean-360", "dev-clean")
UNPAIRED = {
    "parts": ["train-clean-360"],
    "proposal": "seed",
    "language_model": "lm",
    "ratio": 2,
    "labels": {"beam": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe, a trained seed system and a trained language model, all tiny."""
    folder = tmp_path_factory.mktemp("semi")
    data = folder / "data"
    corpus = write_corpus(folder / "corpus", parts=PARTS)
    prepare_corpus(PrepareOptions(corpus_dir=corpus, out_dir=data, parts=PARTS, speeds=(1.0,)))
    prepare_tokens(data, 24)
    training = {"accelerator": "cpu", "num_threads": 1, "log_every": 3, "validate_every": 3}
    stages = [{"name": "train", "num_steps": 3}]
    small = {"dim": 8, "num_heads": 2, "ffn_dim": 16, "num_layers": 1}
    recipe = {
        "data": {"dir": str(data), "max_duration": 6.0, "num_buckets": 1, "speed_perturbation": [1.0]},
        "model": {**config_to_dict(tiny_config()), "vocab_size": 0},
        "training": training,
        "systems": {
            "seed": {"stages": stages},
            "lpm": {"unpaired": UNPAIRED, "stages": [{**stages[0], "init_from": "seed"}]},
        },
    }
    text = folder / "text.txt"
    text.write_text("ONE TWO THREE\nFOUR FIVE\n" * 4)
    lm = {
        "kind": "language_model",
        "data": {"dir": str(data), "train_text": [str(text)], "batch_pieces": 64},
        "model": small,
        "training": training,
        "stages": stages,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "lm.yaml").write_text(yaml.safe_dump(lm))
    assert kdasr("train", "--config", folder / "lm.yaml", "--exp", folder / "exp/lm").exit_code == 0
    assert train(folder, "seed").exit_code == 0
    return folder


def train(folder: Path, system: str, *overrides: str, exp: str = "") -> Result:
    options = [part for override in overrides for part in ("--override", override)]
    config, exp_dir = folder / "recipe.yaml", folder / "exp" / (exp or system)
    return kdasr("train", "--config", config, "--system", system, "--exp", exp_dir, *options)


def test_local_prior_matching_from_the_command_line(folder: Path) -> None:
    result = train(folder, "lpm")
    assert result.exit_code == 0, result.output
    exp = folder / "exp/lpm"
    log = (exp / "train.log").read_text()
    for said in ("6 of 6 unpaired utterances carry transcripts", "proposal model: seed", "unpaired: 6 utt"):
        assert said in log, said
    guesses = json.loads((exp / "first_guesses.json").read_text())
    assert len(guesses["pieces_and_score_per_piece"]) == 6
    row = json.loads((exp / "metrics.jsonl").read_text().splitlines()[0])
    assert {"rnnt", "ctc", "lpm", "survivors", "filtered", "label_words"} <= set(row["terms"])
    assert "proposal model: dev WER" in log


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("unpaired.proposal=null", r"needs unpaired\.proposal"),
        ("unpaired.proposal=nobody", "nobody"),
        ("unpaired.language_model=seed", "not a language model"),
        ("unpaired.language_model=null", r"'prior' needs unpaired\.language_model"),
        ("model.encoder.num_layers=1", r"another architecture.*unpaired\.update: never"),
        ("unpaired.parts=[test-clean]", "test-clean"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, override: str, message: str, tmp_path: Path) -> None:
    stages = 'stages=[{"name": "train", "num_steps": 3}]'
    result = train(folder, "lpm", override, stages, exp=f"refused-{tmp_path.name}")
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=message):
        raise result.exception


def test_a_first_proposal_model_of_other_weights_is_noticed(folder: Path) -> None:
    exp = folder / "exp/other"
    exp.mkdir()
    path = exp / "first_guesses.json"
    path.write_text('{"proposal_model": "0123", "pieces_and_score_per_piece": {}}')
    result = train(folder, "lpm", exp="other")
    assert isinstance(result.exception, UserError) and "another first proposal model or search" in str(
        result.exception
    )
