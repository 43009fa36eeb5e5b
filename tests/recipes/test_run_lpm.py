"""The recipe of local prior matching: its data and its plan on the tiny corpus, and wrong options."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from warm_kdasr import warm_folder

from kdasr.self_training.labels import label_search
from kdasr.study.recipe import load_recipe

EGS = Path(__file__).parents[2] / "egs" / "librispeech"
FILES = sorted((EGS / "conf" / "lpm").glob("*.yaml"))


def run_recipe(*arguments: str, script: str = "run_lpm.sh") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(warm_folder()), str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(EGS / script), *arguments],
        env=os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_shipped_rows_differ_in_their_labels_alone(path: Path) -> None:
    loaded = load_recipe(path)
    results, systems = loaded.results, loaded.systems
    assert len(results.seeds) >= 3 and results.baselines[:1] == ["paired"]
    assert loaded.language_model is not None
    rows = ("one-best", "confidence", "uniform", "lpm")
    parts = systems["lpm"].unpaired.parts
    for row in rows:
        unpaired = systems[row].unpaired
        assert unpaired.parts == parts and unpaired.proposal == "seed" and unpaired.ratio == 4
        # The same proposals, and as many dropped for their scores.
        labels, others = unpaired.labels, systems["lpm"].unpaired.labels
        assert (label_search(labels), labels.worst_share) == (label_search(others), others.worst_share)
        assert systems[row].data.train_parts == ["train-clean-100"]
        assert systems[row].stages == systems["paired"].stages == systems["lpm"].stages
    assert systems["lpm"].unpaired.labels.weights == "prior" and systems["lpm"].unpaired.weight == 0.2
    assert [systems[row].unpaired.labels.one_best for row in rows] == [True, True, False, False]
    assert parts[0] == "train-clean-360"
    assert systems[results.topline].data.train_parts == ["train-clean-100", *parts]
    assert not systems["seed"].unpaired.parts and not systems["paired"].unpaired.parts


def test_data_and_text_are_made_and_every_job_is_planned(tmp_path: Path) -> None:
    # The tiny corpus has no noisy training part, and less variety than the shipped model has pieces.
    shipped = (EGS / "conf" / "lpm" / "lpm.yaml").read_text()
    content = yaml.safe_load(shipped.replace(", train-other-500]", "]"))
    content["results"] |= {"seeds": [1], "language_model": {"conf": str(EGS / "conf/lm/demo.yaml")}}
    conf = tmp_path / "lpm.yaml"
    conf.write_text(yaml.safe_dump(content))
    data, exp = tmp_path / "data", tmp_path / "exp"
    places = ("--size", "tiny", "--conf", str(conf), "--data", str(data), "--exp", str(exp))
    pieces = ("--override", "data.vocab_size=40")
    result = run_recipe(*places, *pieces, "--dry-run", "--stop-stage", "1")
    assert result.returncode == 0, result.stderr
    assert "kdasr corpus" in result.stdout and "kdasr text" in result.stdout and not data.exists()
    result = run_recipe(*places, *pieces, "--stop-stage", "1")
    assert result.returncode == 0, result.stderr
    result = run_recipe(*places, *pieces, "--dry-run")
    assert result.returncode == 0, result.stderr
    assert len((data / "tokens" / "tokens.txt").read_text().splitlines()) == 40
    planned = {line.split()[-1] for line in result.stdout.splitlines() if line.startswith("to run")}
    rows = load_recipe(conf).results.rows
    dev, test = ("train", "dev", "dev-lm"), ("test", "test-lm")
    assert planned == {
        "lm", *(f"seed-1/{name}.{kind}" for name, row in rows.items() for kind in dev + test * row.test)
    }  # fmt: skip

    # Synthetic text holds no transcript of its corpus; another text may.
    own = (data / "lm-text.txt").read_text().splitlines()
    with gzip.open(data / "cuts_train-clean-360.jsonl.gz", "rt") as file:
        unpaired = [json.loads(line)["supervisions"][0]["text"] for line in file]
    (tmp_path / "text.txt").write_text("\n".join([*unpaired, *own]))
    only = ("--stage", "1", "--stop-stage", "1", "--text", str(tmp_path / "text.txt"))
    result = run_recipe(*places, *only)
    assert result.returncode == 0, result.stderr
    # Stage 2 needs it no more.
    gone = ("--corpus", "librispeech", "--text", "none.txt", "--stage", "2", "--dry-run")
    result = run_recipe(*places[2:], *gone)
    assert result.returncode == 0, result.stderr
    assert unpaired and own and (data / "lm-text.txt").read_text().splitlines() == own


WRONG = {
    "run_lpm.sh": [
        (["--corpus", "moon"], "moon"),
        (["--jobs", "0"], "--jobs"),
        (["--upto", "tset"], "tset"),
        (["--conf", "none.yaml"], "none.yaml"),
        (["--rows"], "--rows"),
        (["--row", "lpm"], "--row"),
        (["--corpus", "librispeech", "--size", "base"], "--size"),
        (["--corpus", "librispeech", "--text", "none.txt"], "none.txt"),
        (["--corpus-seed", "08"], "08"),
    ],
    "run_results.sh": [
        (["--upto", "tset"], "tset"),
        (["--stage", "dev"], "--upto"),
        (["--jobs", "many"], "many"),
        (["--conf", "none.yaml"], "none.yaml"),
        (["--row", "hidden"], "--row"),
        (["--rows"], "--rows"),
    ],
    "run_chunks.sh": [
        (["--jobs", "0"], "--jobs"),
        (["--rows", "a"], "--rows"),
        (["--stage", "3"], "run_chunks.sh: error: --stage"),
        (["--size", "tiny", "--systems", "mine"], "run_chunks.sh: error: --systems"),
    ],
}
ASKED = {"run_chunks.sh": "run.sh"}
"""Scripts that leave most of their options to another."""


@pytest.mark.parametrize(
    ("script", "arguments", "culprit"),
    [(script, *case) for script, cases in WRONG.items() for case in cases],
)
def test_wrong_options_name_the_culprit_and_the_script(
    script: str, arguments: list[str], culprit: str
) -> None:
    result = run_recipe(*arguments, script=script)
    assert (
        result.returncode == 1
        and culprit in result.stderr
        and any(f"{name}: error" in result.stderr for name in (script, ASKED.get(script, script)))
    )
