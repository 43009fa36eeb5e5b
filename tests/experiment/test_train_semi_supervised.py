"""`kdasr train` with parts without transcripts, as a user runs it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from command_line import kdasr

from kdasr.checkpoint import load_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.batch import Batch
from kdasr.data.tokens import prepare_tokens
from kdasr.self_training.first_search import FirstSearch
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
    # What could not be read is left out; what was searched in other audio is not taken.
    longer = "stages=[{name: train, num_steps: 4, init_from: seed}]"
    guesses["data"]["audio"] = "other"
    (exp / "first_guesses.json").write_text(json.dumps(guesses))
    assert "the audio has been replaced" in str(train(folder, "lpm", longer).exception)
    del guesses["data"]
    guesses["pieces_and_score_per_piece"].popitem()
    (exp / "first_guesses.json").write_text(json.dumps(guesses))
    assert "nothing of 1 utterances" in str(train(folder, "lpm", longer).exception)


DISTILLED = (
    "objective.teacher=seed",
    "objective.follow=always",
    "unpaired.parts=[train-clean-360]",
    "unpaired.method=distillation",
    "unpaired.mixing=joint",
    "unpaired.ratio=1",
)
TERMS = "rnnt: 1.0, ctc: 0.5, hidden_mse: 1.0, output_kl: 0.5"


def distil(folder: Path, exp: str, *overrides: str, system: str = "seed") -> Result:
    stages = f"stages=[{{name: train, num_steps: 3, init_from: seed, loss_weights: {{{TERMS}}}}}]"
    return train(folder, system, *DISTILLED, stages, *overrides, exp=exp)


def last(folder: Path, exp: str) -> dict[str, Any]:
    return load_checkpoint(folder / "exp" / exp / "checkpoints" / "last.pt")


def last_terms(folder: Path, exp: str) -> dict[str, float]:
    rows = [json.loads(line) for line in (folder / "exp" / exp / "metrics.jsonl").read_text().splitlines()]
    return next(row["terms"] for row in rows if row["split"] == "train")


def test_distillation_without_transcripts_from_the_command_line(folder: Path) -> None:
    """The teacher says it in its turn, or once; a resume reads what it said."""
    for source, exp in (("search", "in-turn"), ("once", "once")):
        result = distil(folder, exp, f"unpaired.hypothesis.source={source}")
        assert result.exit_code == 0, result.output
        log = (folder / "exp" / exp / "train.log").read_text()
        assert "6 of 6 unpaired utterances carry transcripts" in log and "teacher: seed" in log
        terms = last_terms(folder, exp)
        assert {"hidden_mse", "unpaired_hidden_mse", "unpaired_output_kl", "label_words"} <= set(terms)
    once = folder / "exp" / "once"
    said = json.loads((once / "hypotheses.json").read_text())
    assert len(said["texts"]) == 6 and not (folder / "exp" / "in-turn" / "hypotheses.json").exists()
    longer = "stages.0.num_steps=4"
    for name in ("utterances", "audio"):
        (once / "hypotheses.json").write_text(json.dumps({**said, name: "others"}))
        result = distil(folder, "once", "unpaired.hypothesis.source=once", longer)
        assert f"{name} was others" in str(result.exception)


def test_given_labels_train_as_transcripts_do(folder: Path) -> None:
    """The terms of the same utterances on the same batches are the same, but for rounding."""
    given = ("unpaired.parts=[train-clean-100]", "unpaired.hypothesis.source=given", "data.max_duration=60")
    result = distil(folder, "given", "data.spec_augment.enabled=false", *given)
    assert result.exit_code == 0, result.output
    terms = last_terms(folder, "given")
    for name in ("rnnt", "ctc", "hidden_mse", "output_kl"):
        assert terms[f"unpaired_{name}"] == pytest.approx(terms[name], rel=1e-5)


def test_a_weight_of_zero_is_training_without_such_speech(folder: Path) -> None:
    """Bit for bit, the resume state included."""
    zero, none = ("unpaired.weight=0", "plain"), ("unpaired.parts=[]", "zero")
    found = []
    for override, exp in (zero, none):
        assert distil(folder, exp, override).exit_code == 0
        found.append(last(folder, exp))
    for name, value in found[0]["model"].items():
        assert torch.equal(value, found[1]["model"][name]), name
    states = [one["trainer"] for one in found]
    assert states[0]["objective"].keys() == states[1]["objective"].keys()
    assert states[0]["processes"][0]["batches"] == states[1]["processes"][0]["batches"]


def test_the_rest_of_a_part_is_learnt_without_its_transcripts(folder: Path) -> None:
    """Half of the utterances have transcripts; the others are the unpaired ones."""
    share = ("data.train_share=0.5", "unpaired.parts=[train-clean-100]", "unpaired.hypothesis.source=none")
    assert distil(folder, "share", *share).exit_code == 0
    log = (folder / "exp" / "share" / "train.log").read_text()
    paired = int(re.search(r"data.train_share 0.5: (\d) of 6 utterances", log)[1])  # type: ignore[index]
    assert 0 < paired < 6 and f"unpaired: {6 - paired} utterances" in log
    assert set(last_terms(folder, "share")) & {"unpaired_hidden_mse", "unpaired_rnnt"} == {
        "unpaired_hidden_mse"
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["unpaired.method=labels", "stages.0.unpaired_weights={rnnt: 1.0}"],
            r"unpaired_weights.*need unpaired",
        ),
        (
            ["objective.teacher=null", "stages.0.loss_weights={rnnt: 1.0}"],
            r"'search' needs objective\.teacher",
        ),
        (
            ["unpaired.hypothesis.source=none", "stages.0.unpaired_weights={rnnt: 1.0}"],
            r"\['rnnt'\], which need a text",
        ),
        (["unpaired.hypothesis.source=none", "stages.0.loss_weights={rnnt: 1.0}"], "does without text"),
        (["stages.0.unpaired_weights={cr_ctc: 1.0, rnnt: 1.0}"], r"\['cr_ctc'\].*one copy more"),
        (["stages.0.unpaired_weights={kl: 1.0}"], r"unpaired_weights \['kl'\]; known terms"),
        (["unpaired.hypothesis.beam=0"], r"unpaired\.hypothesis\.beam' is 0"),
    ],
)
def test_what_distillation_cannot_be_is_refused(folder: Path, overrides: list[str], message: str) -> None:
    result = distil(folder, "refused", *overrides)
    assert isinstance(result.exception, UserError)
    with pytest.raises(UserError, match=message):
        raise result.exception
    assert not (folder / "exp" / "refused").exists()


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


def test_what_the_first_search_cannot_read_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(search: FirstSearch, batch: Batch) -> dict[str, Any]:
        found = search_all(search, batch)
        return {name: guess for name, guess in found.items() if name != "200-1-0000"}

    search_all = FirstSearch.find
    monkeypatch.setattr(FirstSearch, "find", find)
    result = train(folder, "lpm", exp=f"unreadable-{tmp_path.name}")
    assert result.exit_code == 0, result.output
    log = (folder / "exp" / f"unreadable-{tmp_path.name}" / "train.log").read_text()
    assert "1 of 6 utterances could not be searched" in log and "unpaired: 5 utterances" in log


def test_a_first_proposal_model_of_other_weights_is_noticed(folder: Path) -> None:
    exp = folder / "exp/other"
    exp.mkdir()
    path = exp / "first_guesses.json"
    path.write_text('{"proposal_model": "0123", "pieces_and_score_per_piece": {}}')
    result = train(folder, "lpm", exp="other")
    assert isinstance(result.exception, UserError) and "another first proposal model or search" in str(
        result.exception
    )
