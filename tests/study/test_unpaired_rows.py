"""Rows that learn without transcripts: who proposes, what weighs the labels, and what is left in the end."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_helpers import STUDENT, calls, make_study, recipe

from kdasr.common.errors import UserError
from kdasr.study.driver import Options, collect, run_study
from kdasr.study.jobs import Study
from kdasr.study.plan import Planner, select_rows
from kdasr.study.recipe import load_recipe
from kdasr.study.results_config import WITH_LM
from kdasr.study.write import write_results

STAGES = [{"name": "train", "num_steps": 2}]
UNPAIRED = {"unpaired": {"parts": ["train-clean-360"], "proposal": "seed"}}
ROWS = {
    "seed": {"init": "scratch"},
    "full": {"init": "seed"},
    "paired": {"init": "seed"},
    "uniform": {"system": "lpm", "init": "seed", "settings": {"unpaired.labels.weights": "uniform"}},
    "lpm": {"init": "seed"},
}
RESULTS = {
    "seeds": [1, 2],
    "topline": "full",
    "references": ["seed"],
    "baselines": ["paired"],
    "summary": "recovered",
    "language_model": {"conf": "lm.yaml", "text": "text.txt", "scale": 0.25},
    "rows": ROWS,
}
LM = {"kind": "language_model", "model": {"dim": 8}, "stages": [{"name": "train", "num_steps": 3}]}


def study(folder: Path, **results: Any) -> Study:
    """A study of a recipe with a language model."""
    made = make_study(folder)
    (folder / "lm.yaml").write_text(yaml.safe_dump(LM))
    (folder / "transducer.yaml").write_text(yaml.safe_dump({"seed": 1}))
    text = folder / "data" / "text.txt"
    text.write_text(text.read_text() if text.exists() else "A SENTENCE\n")
    systems = {name: {**STUDENT, "objective": {}, "stages": STAGES} for name in ("seed", "full", "paired")}
    systems["lpm"] = {**systems["paired"], **UNPAIRED}
    content = {**recipe(), "systems": systems, "results": {**RESULTS, **results}}
    (folder / "conf.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Study(Planner(load_recipe(folder / "conf.yaml"), made.data, made.exp), made.kdasr)


def row(**unpaired: Any) -> dict[str, Any]:
    """The rows, `lpm` with other options of its unpaired speech."""
    settings = {f"unpaired.{name}": value for name, value in unpaired.items()}
    return {"rows": ROWS | {"lpm": {"init": "seed", "settings": settings}}}


CIRCLE = {
    # The topline proposes for the row that it starts from.
    "rows": ROWS | {"seed": {"system": "lpm", "settings": {"unpaired.proposal": "full"}}}
}


def quiet(text: str) -> None:
    pass


def test_labels_come_from_the_row_of_the_same_seed(
    tmp_path: Path,
) -> None:
    made = study(tmp_path)
    assert not run_study(made, Options(num_jobs=2, upto="dev"), quiet).failed
    lines = calls(tmp_path)
    trained = [line.split()[-1] for line in lines if line.startswith("train")]
    assert trained.count(str(made.exp / "lm")) == 1
    for seed in (1, 2):
        folder = made.exp / "conf" / f"seed-{seed}"
        unpaired = {row: yaml.safe_load((folder / f"{row}.yaml").read_text())["unpaired"] for row in ROWS}
        for row in ("uniform", "lpm"):
            assert unpaired[row]["proposal"] == "seed"
            begun = trained.index(str(made.exp / f"seed-{seed}" / row))
            assert trained.index(str(made.exp / f"seed-{seed}" / "seed")) < begun
        assert trained.index(str(made.exp / "lm")) < trained.index(str(made.exp / f"seed-{seed}" / "lpm"))
        assert unpaired["lpm"]["language_model"] == "../lm"
        assert unpaired["uniform"]["language_model"] is unpaired["paired"]["language_model"] is None
    lm = yaml.safe_load((made.exp / "conf" / "lm.yaml").read_text())
    assert lm["data"]["train_text"] == [str(made.data / "text.txt")]
    assert lm["data"]["dir"] == str(made.data) and lm["model"]["dim"] == 8


def test_every_row_is_decoded_with_and_without_the_language_model(tmp_path: Path) -> None:
    made = study(tmp_path)
    assert not run_study(made, Options(num_jobs=2, upto="test"), quiet).failed
    decodes = [line for line in calls(tmp_path) if line.startswith("decode")]
    with_lm = [line for line in decodes if "--lm" in line]
    # Two seeds of five rows, dev and test parts.
    assert len(with_lm) == len(decodes) - len(with_lm) == 20
    options = f"--lm {made.exp / 'lm'} --search beam --beam 4 --lm-scale 0.25 --blank-penalty 0.0"
    assert all(options in line for line in with_lm)
    plain, fused = collect(made, "test"), collect(made, "test", WITH_LM)
    assert [run.info for run in plain.runs] == [run.info for run in fused.runs]
    for ours, theirs in zip(plain.results, fused.results, strict=True):
        assert theirs.wer == 2 * ours.wer


def test_rows_may_be_rescored_with_weights_of_their_own(tmp_path: Path) -> None:
    made = study(tmp_path, language_model={**RESULTS["language_model"], "rescore": True})
    assert not run_study(made, Options(num_jobs=2, upto="test"), quiet).failed
    with_lm = [line for line in calls(tmp_path) if line.startswith("decode") and "--lm" in line]
    options = "--search beam --beam 4 --tune dev-clean --blank-penalty 0.0 --rescore"
    assert len(with_lm) == 20 and all(options in line for line in with_lm)
    assert not any("--lm-scale" in line for line in with_lm)


def test_distillation_needs_no_row_that_proposes(tmp_path: Path) -> None:
    """And no language model, though labels would be weighed by one."""
    made = study(tmp_path, **row(method="distillation", proposal=None, **{"hypothesis.source": "given"}))
    assert not run_study(made, Options(num_jobs=2, upto="dev"), quiet).failed
    options = yaml.safe_load((made.exp / "conf" / "seed-1" / "lpm.yaml").read_text())["unpaired"]
    assert (options["method"], options["language_model"]) == ("distillation", None)


def test_other_unpaired_speech_trains_what_has_heard_it_again(tmp_path: Path) -> None:
    made = study(tmp_path)
    run_study(made, Options(num_jobs=2, upto="dev"), quiet)
    before = len(calls(tmp_path))
    (made.data / "cuts_train-clean-360.jsonl.gz").write_bytes(gzip.compress(b"other speech"))
    run_study(study(tmp_path), Options(num_jobs=2, upto="dev"), quiet)
    again = {line.split()[-1] for line in calls(tmp_path)[before:] if line.startswith("train")}
    assert again == {str(made.exp / f"seed-{seed}" / row) for seed in (1, 2) for row in ("uniform", "lpm")}


def test_another_text_trains_the_language_model_again(tmp_path: Path) -> None:
    made = study(tmp_path)
    run_study(made, Options(num_jobs=2, upto="dev"), quiet)
    before = len(calls(tmp_path))
    (made.data / "text.txt").write_text("ANOTHER SENTENCE\n")
    run_study(study(tmp_path), Options(num_jobs=2, upto="dev"), quiet)
    again = [line.split()[-1] for line in calls(tmp_path)[before:] if line.startswith("train")]
    weighed = [str(made.exp / f"seed-{seed}" / "lpm") for seed in (1, 2)]
    assert sorted(again) == sorted([str(made.exp / "lm"), *weighed])


def test_the_summary_lists_what_each_run_has_recovered(tmp_path: Path) -> None:
    made = study(tmp_path)
    run_study(made, Options(num_jobs=2, upto="test"), quiet)
    # What the stand-in measures depends on the mode alone: make the topline better, and lpm half as good.
    for with_lm in ("decode", "decode-lm"):
        for row, wrong in (("full", 0), ("lpm", 1), ("paired", 2)):
            path = made.exp / "seed-1" / row / with_lm / "streaming" / "test-clean" / "utterances.jsonl"
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            for line in lines:
                line["errors"] |= {"sub": wrong}
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = tmp_path / "RESULTS.md"
    document.write_text("before\n<!-- conf -->\n<!-- /conf -->\nafter\n")
    said = list(write_results(made, "test", "kdasr results", document))
    entries = json.loads((made.exp / "summary.json").read_text())
    assert all(set(entry) == {"system", "seed", "part", "wer", "recovered", "with_lm"} for entry in entries)
    assert len(entries) == 5 * 2 * 3 * 2  # rows, seeds, parts, with and without
    for with_lm in (False, True):
        found = {
            entry["system"]: entry["recovered"]
            for entry in entries
            if (entry["seed"], entry["part"], entry["with_lm"]) == (1, "test-clean", with_lm)
        }
        assert (found["paired"], found["lpm"], found["full"]) == (0.0, 0.5, 1.0)
    # No distance between baseline and topline, no share of it.
    assert {entry["recovered"] for entry in entries if entry["seed"] == 2} == {None}
    assert json.loads((made.exp / "comparisons.json").read_text())["bound"] == "full"
    assert any("comparisons-lm.json" in line for line in said)
    text = document.read_text()
    assert text.startswith("before\n<!-- conf -->") and "(results/conf-lm-rows.csv)" in text
    assert (made.exp / "results.md").read_text().count("gap to `full` closed") == 2
    names = ("conf-rows", "conf-comparisons", "conf-lm-rows", "conf-lm-comparisons")
    assert {path.stem for path in (tmp_path / "results").iterdir()} == set(names)
    assert "#### With a language model in decoding" in text and "scale 0.25" in text
    assert "whole utterances" not in text


@pytest.mark.parametrize(
    ("results", "culprits"),
    [
        ({"rows": ROWS | {"seed": {"system": "lpm"}}}, ["'seed'", "needs itself"]),
        (row(proposal="paired"), ["'paired'", "references (seed)"]),
        (row(proposal="sed"), ["'sed'", "references (seed)"]),
        (row(proposal=None), ["'None'", "references (seed)"]),
        ({"language_model": None}, ["'lpm'", "labels.weights 'prior'"]),
        (CIRCLE, ["needs itself", "full"]),
        ({"language_model": {"conf": "none.yaml"}}, ["none.yaml"]),
        (
            {"language_model": {"conf": "transducer.yaml"}},
            ["transducer.yaml does not describe a language model"],
        ),
        ({"summary": "all"}, ["summary", "all"]),
    ],
)
def test_what_cannot_work_is_refused_by_name(
    tmp_path: Path, results: dict[str, Any], culprits: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, **results)
    for culprit in culprits:
        assert culprit in str(caught.value)


def test_a_row_may_have_a_language_model_of_its_own(tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("A SENTENCE\n")
    own = {"init": "seed", "system": "lpm", "settings": {"unpaired.language_model": str(text)}}
    rows = {"rows": ROWS | {"trigram": own}}
    made = study(tmp_path, **rows)
    assert not run_study(made, Options(num_jobs=2, upto="dev"), quiet).failed
    options = yaml.safe_load((made.exp / "conf" / "seed-1" / "trigram.yaml").read_text())
    assert options["unpaired"]["language_model"] == str(text)
    before = len(calls(tmp_path))
    text.write_text("ANOTHER SENTENCE\n")
    run_study(study(tmp_path, **rows), Options(num_jobs=2, upto="dev"), quiet)
    again = [line.split()[-1] for line in calls(tmp_path)[before:] if line.startswith("train")]
    assert sorted(again) == [str(made.exp / f"seed-{seed}" / "trigram") for seed in (1, 2)]


def test_a_row_brings_the_baseline_of_what_it_recovers(tmp_path: Path) -> None:
    results = load_recipe(study(tmp_path).recipe.path).results
    assert select_rows(results, ["lpm"]) == ["seed", "full", "paired", "lpm"]


def test_a_missing_text_is_named(tmp_path: Path) -> None:
    made = study(tmp_path)
    (made.data / "text.txt").unlink()
    with pytest.raises(UserError, match=r"text\.txt"):
        run_study(made, Options(), quiet)
