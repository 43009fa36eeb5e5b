"""The recipe of labels: from audio without transcripts to the plan of its rows, and wrong options."""

import json
from pathlib import Path

import pytest
import yaml
from test_run_lpm import EGS, run_recipe

from kdasr.common.errors import UserError
from kdasr.data.folder import load_cuts
from kdasr.study.recipe import load_recipe
from kdasr.testing import write_corpus

CONF = EGS / "conf" / "whisper" / "whisper.yaml"


def test_the_shipped_rows_differ_in_what_they_train_on() -> None:
    loaded = load_recipe(CONF)
    systems = loaded.systems
    parts = {
        name: systems[name].data.train_parts for name in ("without-labels", "with-labels", "labels-start")
    }
    assert parts == {
        "without-labels": ["train-clean-100"],
        "with-labels": ["train-clean-100", "train-labeled"],
        "labels-start": ["train-labeled"],
    }
    assert len(loaded.results.seeds) >= 3 and loaded.results.baselines == ["without-labels"]
    chunks = {systems[name].contexts[0].chunk for name in systems if name.startswith("labels-scratch")}
    assert chunks == {4, 8, 16}
    assert all(systems[name].contexts[0].chunk for name in systems if name != "offline")


def test_other_parts_are_refused_where_they_are_not_compared(tmp_path: Path) -> None:
    content = yaml.safe_load(CONF.read_text())
    del content["results"]["same_parts"]
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="rows that are compared must agree"):
        load_recipe(tmp_path / "conf.yaml")


def test_speech_is_labeled_prepared_and_every_row_is_planned(tmp_path: Path) -> None:
    corpus = write_corpus(
        tmp_path / "corpus", ("train-clean-100", "dev-clean", "test-clean", "train-other-500")
    )
    untold, texts = corpus / "train-other-500", {}
    for file in untold.rglob("*.trans.txt"):
        texts |= dict(line.split(" ", 1) for line in file.read_text().splitlines())
    lines = [
        {
            "id": "-".join(path.relative_to(untold).with_suffix("").parts),
            "text": f"{texts[path.stem].lower()}.",
        }
        for path in untold.rglob("*.flac")
    ]
    (tmp_path / "labels.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    data, exp = tmp_path / "data", tmp_path / "exp"
    (tmp_path / "3gram.arpa").write_text("an n-gram")
    (tmp_path / "some names.txt").write_text("TESS\n")
    # Tones are no speech.
    names = ("activity", "rate", "repeats")
    off = [part for name in names for part in ("--label-option", f"filter={name}=off")]
    arguments = [
        "--untranscribed", str(untold), "--labeler", f"jsonl:{tmp_path / 'labels.jsonl'}", *off,
        "--corpus-dir", str(corpus), "--data", str(data), "--exp", str(exp),
        "--ngram", str(tmp_path / "3gram.arpa"), "--phrases", str(tmp_path / "some names.txt"),
        "--override", "data.vocab_size=20", "--override", "results.searches.ngram.lm_scale=0.5",
    ]  # fmt: skip
    result = run_recipe(*arguments, "--dry-run", "--stop-stage", "2", script="run_whisper.sh")
    assert result.returncode == 0, result.stderr
    assert "kdasr label" in result.stdout and "kdasr tokens" in result.stdout
    assert not data.exists() and not exp.exists()
    result = run_recipe(*arguments, "--stop-stage", "2", script="run_whisper.sh")
    assert result.returncode == 0, result.stderr
    result = run_recipe(*arguments, "--dry-run", script="run_whisper.sh")
    assert result.returncode == 0, result.stderr
    labeled = {cut.id: cut.supervisions[0].text for cut in load_cuts(data, "train-labeled")}
    assert labeled and set(labeled.values()) == set(texts.values())
    assert len((data / "tokens" / "tokens.txt").read_text().splitlines()) == 20
    planned = {line.split()[-1] for line in result.stdout.splitlines() if line.startswith("to run")}
    rows = load_recipe(CONF).results.rows
    seeds = load_recipe(CONF).results.seeds
    searches = ("", "-beam", "-ngram", "-phrases")
    assert {f"seed-{seed}/{name}.test{by}" for seed in seeds for name in rows for by in searches} <= planned


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        ([], "--untranscribed"),
        (["--untranscribed", "x", "--label-option", "beam"], "--label-option beam"),
        (["--stage", "1"], "--corpus-dir"),
        (["--stage", "1", "--corpus-dir", "a", "--cuts", "train=b"], "--corpus-dir and --cuts"),
        (["--conf", "none.yaml"], "none.yaml"),
        (["--upto", "tset"], "tset"),
        (["--ngram", "none.arpa"], "none.arpa: no such file"),
        (["--jobs", "0"], "--jobs"),
    ],
)
def test_wrong_options_name_the_culprit(arguments: list[str], culprit: str) -> None:
    result = run_recipe(*arguments, script="run_whisper.sh")
    assert result.returncode == 1 and culprit in result.stderr and "run_whisper.sh: error" in result.stderr
