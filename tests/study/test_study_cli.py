"""`kdasr results` itself on speech that is tones: two steps a row, decoded, compared, and not done twice."""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from warm_kdasr import warm_folder

from kdasr.cli.main import cli
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.tokens import prepare_tokens
from kdasr.study import jobs
from kdasr.testing import tiny_config, write_corpus

STEPS = {"num_steps": 2, "loss_weights": {"rnnt": 1.0, "ctc": 0.5}}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prepared data and a recipe."""
    folder = tmp_path_factory.mktemp("study")
    parts = ("train-clean-100", "dev-clean", "test-clean")
    corpus = write_corpus(folder / "corpus", parts, alignments_dir=folder / "alignments")
    prepare_corpus(
        PrepareOptions(
            corpus_dir=corpus,
            alignments_dir=folder / "alignments",
            out_dir=folder / "data",
            parts=parts,
            speeds=(1.0,),
        )
    )
    prepare_tokens(folder / "data", 24)
    content = {
        "data": {"max_duration": 6.0, "num_buckets": 1, "speed_perturbation": [1.0]},
        "model": {**config_to_dict(tiny_config()), "vocab_size": 0},
        "training": {"accelerator": "cpu", "num_threads": 1, "log_every": 1, "validate_every": 2},
        "systems": {
            "teacher": {"stages": [{"name": "train", **STEPS}]},
            "streaming": {
                "contexts": [{"left": 8, "chunk": 4}],
                "objective": {"teacher": "teacher"},
                "stages": [{"name": "train", **STEPS}],
            },
        },
        "results": {
            "seeds": [3],
            "topline": "teacher",
            "test_parts": ["test-clean"],
            "baselines": ["streaming"],
            "rows": {
                "teacher": {},
                "streaming": {"settings": {"objective.teacher": None}},
                "output": {
                    "system": "streaming",
                    "init": "teacher",
                    "settings": {"stages.0.loss_weights": {"rnnt": 1.0, "output_kl": 0.3}},
                },
            },
        },
    }
    (folder / "conf.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(autouse=True)
def quick_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs have processes of their own, but these share their imports."""
    monkeypatch.setattr(jobs, "Study", partial(jobs.Study, kdasr=(str(warm_folder() / "kdasr"),)))


def results(study: Path, *arguments: str) -> Result:
    where = ("--data", str(study / "data"), "--exp", str(study / "exp"))
    return CliRunner().invoke(cli, ["results", str(study / "conf.yaml"), *where, *arguments])


def test_every_row_is_trained_decoded_and_compared_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study)
    result = results(study, "--jobs", "2", "--upto", "test")
    assert result.exit_code == 0, result.output
    exp = study / "exp"
    summary = json.loads((exp / "summary.json").read_text())
    assert {(row["row"], row["part"]) for row in summary["rows"]} == {
        (row, part) for row in ("teacher", "streaming", "output") for part in ("dev-clean", "test-clean")
    }
    assert {(row["seed"], row["train_steps"]) for row in summary["rows"]} == {(3, 2)}
    assert {(c["row"], c["baseline"]) for c in summary["comparisons"]} == {
        ("teacher", "streaming"), ("output", "streaming")
    }  # fmt: skip
    assert "from the teacher" not in (exp / "seed-3" / "streaming" / "train.log").read_text()
    log = (exp / "seed-3" / "output" / "train.log").read_text()
    assert "teacher: teacher" in log and "averaged.pt" in log
    assert yaml.safe_load((exp / "seed-3" / "output" / "config.yaml").read_text())["seed"] == 3
    # As a reader in the same folder would write it.
    assert "`kdasr results conf.yaml --data data --exp exp --upto test`" in (exp / "results.md").read_text()
    weights = exp / "seed-3" / "output" / "checkpoints" / "last.pt"
    before = weights.stat().st_mtime_ns
    again = results(study, "--jobs", "2", "--upto", "test")
    assert again.exit_code == 0 and "started" not in again.output
    assert weights.stat().st_mtime_ns == before


def test_a_failed_training_gives_a_failed_exit_status(study: Path) -> None:
    recipe = yaml.safe_load((study / "conf.yaml").read_text())
    recipe["results"]["rows"]["bad"] = {
        "system": "streaming",
        "settings": {"objective.teacher": None, "training.accelerator": "no-such-device"},
    }
    (study / "bad.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    where = ("--data", str(study / "data"), "--exp", str(study / "exp"), "--rows", "bad", "--jobs", "2")
    result = CliRunner().invoke(cli, ["results", str(study / "bad.yaml"), *where])
    assert result.exit_code == 1, result.output
    assert "failed: seed-3/bad.train" in result.output and "no-such-device" in result.output
    assert "skipped, because they need one that failed: seed-3/bad.dev" in result.output
    summary = json.loads((study / "exp" / "summary.json").read_text())
    assert {row["part"] for row in summary["rows"]} == {"dev-clean"}
    assert summary["incomplete"]["bad"] == 0


def test_a_dry_run_says_what_is_left_and_does_nothing(study: Path, tmp_path: Path) -> None:
    where = ("--data", str(study / "data"), "--exp", str(tmp_path / "exp"), "--upto", "dev", "--dry-run")
    result = CliRunner().invoke(cli, ["results", str(study / "conf.yaml"), *where])
    assert result.exit_code == 0 and result.output.count("to run") == 6
    nowhere = ("--data", str(tmp_path / "data"), *where[2:])
    plan = CliRunner().invoke(cli, ["results", str(study / "conf.yaml"), *nowhere])
    assert plan.exit_code == 0 and plan.output == result.output
    assert not (tmp_path / "exp").exists()


def test_the_former_name_of_upto_is_refused_with_the_present_one(study: Path) -> None:
    wrong = results(study, "--stage", "dev")
    assert isinstance(wrong.exception, UserError) and "--upto dev" in str(wrong.exception)


def test_wrong_rows_and_missing_data_are_named(study: Path, tmp_path: Path) -> None:
    wrong = results(study, "--rows", "ghost")
    assert isinstance(wrong.exception, UserError) and "ghost" in str(wrong.exception)
    where = ("--data", str(tmp_path), "--exp", str(tmp_path / "exp"))
    missing = CliRunner().invoke(cli, ["results", str(study / "conf.yaml"), *where])
    assert isinstance(missing.exception, UserError) and str(tmp_path) in str(missing.exception)


def test_a_document_without_marks_is_named_before_anything_runs(study: Path, tmp_path: Path) -> None:
    (tmp_path / "doc.md").write_text("nothing")
    where = ("--data", str(study / "data"), "--exp", str(tmp_path / "exp"))
    wrong = ("results", str(study / "conf.yaml"), *where, "--markdown", str(tmp_path / "doc.md"))
    result = CliRunner().invoke(cli, wrong)
    assert isinstance(result.exception, UserError) and "doc.md: expected one section" in str(result.exception)
    assert not (tmp_path / "exp").exists()
