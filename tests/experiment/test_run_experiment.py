"""`kdasr train` and `kdasr average` on prepared data, as a user runs them."""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import Result
from command_line import kdasr
from tiny_system import processes

from kdasr.bundle import calibration_file, load_bundle
from kdasr.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from kdasr.cli.main import main
from kdasr.common.configio import config_to_dict, save_yaml
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.common.locks import process_lock
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.tokens import prepare_tokens
from kdasr.distillation.objective_config import StageConfig
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.saved_config import load_saved_experiment
from kdasr.experiment.teacher_comparison import plain_students
from kdasr.nn.context import Context
from kdasr.testing import tiny_config, write_corpus

STAGE = {"num_steps": 4, "loss_weights": {"rnnt": 1.0, "ctc": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    corpus = write_corpus(folder / "corpus")
    parts = ("train-clean-100", "dev-clean")
    prepare_corpus(PrepareOptions(corpus_dir=corpus, out_dir=folder, parts=parts, speeds=(1.0,)))
    prepare_tokens(folder, 24)
    return folder


@pytest.fixture(scope="module")
def recipe(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    student = {
        "contexts": [{"left": 8, "chunk": 4}],
        "objective": {"teacher": "teacher"},
        "stages": [
            {
                "name": "hidden",
                "init_from": "teacher",
                **STAGE,
                "loss_weights": {"ctc": 1.0, "hidden_mse": 1.0},
            },
            {"name": "output", **STAGE, "loss_weights": {"rnnt": 1.0, "output_kl": 0.5}},
        ],
    }
    content = {
        "data": {"dir": str(data), "max_duration": 6.0, "num_buckets": 1, "speed_perturbation": [1.0]},
        "model": {**config_to_dict(tiny_config()), "vocab_size": 0},
        "training": {"accelerator": "cpu", "num_threads": 1, "log_every": 2, "validate_every": 2},
        "systems": {"teacher": {"stages": [{"name": "train", **STAGE}]}, "student": student},
    }
    path = tmp_path_factory.mktemp("exp") / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def train(recipe: Path, system: str, *arguments: object, exp: Path | None = None) -> Result:
    exp = exp or recipe.parent / system
    return kdasr("train", "--config", recipe, "--system", system, "--exp", exp, *arguments)


@pytest.fixture(scope="module")
def teacher(recipe: Path) -> Path:
    result = train(recipe, "teacher")
    assert result.exit_code == 0, result.output
    return recipe.parent / "teacher"


@pytest.fixture(scope="module")
def taught(teacher: Path, recipe: Path) -> tuple[Path, Path]:
    """A teacher that stays as it is, and beside it a student of it."""
    own = copy_of(teacher, recipe.parent / "own" / "teacher")
    exp = own.parent / "student"
    assert train(recipe, "student", "--override", f"objective.teacher={own}", exp=exp).exit_code == 0
    return own, exp


def test_a_folder_holds_all_that_describes_the_run(teacher: Path, data: Path) -> None:
    assert {path.name for path in teacher.iterdir()} >= {
        *("config.yaml", "environment.json", "tokens", "checkpoints", "train.log", "metrics.jsonl"),
        "tensorboard",
    }
    environment = json.loads((teacher / "environment.json").read_text())
    assert environment["libraries"]["torch"] == torch.__version__.partition("+")[0]
    assert environment["rnnt_backend"] in {"native", "k2"} and environment["seed"] == 1
    log = (teacher / "train.log").read_text()
    for said in ("native", "full", "M parameters", "6 utterances", "device: cpu"):
        assert said in log, said
    bundle = load_bundle(teacher)
    assert bundle.name == "teacher" and bundle.context == Context.full()
    stats = json.loads((data / "feature_stats.json").read_text())
    mean = bundle.model.encoder.feature_norm.mean_F
    torch.testing.assert_close(mean, torch.tensor(stats["mean"]))


def test_a_finished_system_says_so(teacher: Path, recipe: Path) -> None:
    assert train(recipe, "teacher").exit_code == 0
    assert "already trained: train" in (teacher / "train.log").read_text().splitlines()[-1]


def test_other_tokens_are_refused_after_training_too(
    teacher: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    other, exp = copy_of(data, tmp_path / "data"), tmp_path / "exp"
    for folder in (other, shutil.copytree(teacher, exp)):
        shutil.rmtree(folder / "tokens")
    prepare_tokens(other, 23)
    shutil.copytree(other / "tokens", exp / "tokens")
    assert "not the tokens" in refusal(train(recipe, "teacher", exp=exp))


def test_another_configuration_is_refused_by_name(teacher: Path, recipe: Path) -> None:
    before = (teacher / "config.yaml").read_bytes()
    result = train(recipe, "teacher", "--override", "training.optim.learning_rate=0.5")
    assert isinstance(result.exception, UserError)
    assert "training.optim.learning_rate: 0.001" in str(result.exception)
    assert (teacher / "config.yaml").read_bytes() == before


def test_two_stages_from_a_teacher_in_two_calls(teacher: Path, recipe: Path) -> None:
    exp = recipe.parent / "student"
    assert train(recipe, "student", "--until-stage", "hidden").exit_code == 0
    half_way = load_checkpoint(exp / "checkpoints" / "last.pt")
    assert half_way["train_steps"] == 4
    # A better teacher that appears in between is not taken: the run would not be the same.
    taught_by = half_way["trainer"]["progress"]["teacher"]
    assert kdasr("average", teacher).exit_code == 0 and "averaged" not in taught_by
    assert train(recipe, "student").exit_code == 0
    finished = load_checkpoint(exp / "checkpoints" / "last.pt")
    assert finished["train_steps"] == 8 and finished["trainer"]["progress"]["teacher"] == taught_by
    assert (exp / "train.log").read_text().count(f"teacher: teacher ({taught_by})") == 2
    rows = [json.loads(line) for line in (exp / "metrics.jsonl").read_text().splitlines()]
    assert {row["stage"]: sorted(row["terms"]) for row in rows if row["split"] == "valid"} == {
        "hidden": ["ctc", "hidden_mse"],
        "output": ["kl_exponent", "output_kl", "rnnt", "rnnt_pruned", "rnnt_simple"],
    }
    assert load_bundle(exp).context == Context(left=8, chunk=4)


def test_a_calibrated_teacher_teaches_as_it_was_trained(
    taught: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    own, student = taught
    calibrated, exp = copy_of(own, tmp_path / "calibrated"), own.parent / "of-calibrated"
    digest = sha256(find_checkpoint(calibrated))
    found = {"checkpoint_sha256": digest, "calibration": None, "blank_penalty": 3.0}
    calibration_file(find_checkpoint(calibrated)).write_text(json.dumps(found))
    assert load_bundle(calibrated).blank_penalty == 3.0
    assert train(recipe, "student", "--override", f"objective.teacher={calibrated}", exp=exp).exit_code == 0
    weights = [load_checkpoint(folder / "checkpoints" / "last.pt")["model"] for folder in (student, exp)]
    for name, values in weights[0].items():
        assert torch.equal(values, weights[1][name]), name


def test_the_mean_of_a_teacher_and_itself_teaches_as_it_does(
    taught: tuple[Path, Path], recipe: Path, tmp_path: Path
) -> None:
    own, alone = taught
    twice, twin = own.parent / "twice", copy_of(own, tmp_path / "twin")
    use = ("--override", f"objective.teacher={own}")
    more = (*use, "--override", f"objective.more_teachers=[{twin}]")
    assert train(recipe, "student", *more, "--until-stage", "hidden", exp=twice).exit_code == 0
    # It goes on with the same two, wherever the second one lies now.
    twin.rename(tmp_path / "moved")
    moved = (*use, "--override", f"objective.more_teachers=[{tmp_path / 'moved'}]")
    first, other = (find_checkpoint(folder).read_bytes() for folder in (tmp_path / "moved", alone))
    find_checkpoint(tmp_path / "moved").write_bytes(other)
    assert "objective.more_teachers" in refusal(train(recipe, "student", *moved, exp=twice))
    find_checkpoint(tmp_path / "moved").write_bytes(first)
    assert train(recipe, "student", *moved, exp=twice).exit_code == 0
    one, two = (load_checkpoint(exp / "checkpoints" / "last.pt") for exp in (alone, twice))
    for name, values in one["model"].items():
        torch.testing.assert_close(two["model"][name], values, atol=1e-5, rtol=1e-4)
    assert [Path(file).parts[-3] for file, _ in two["trainer"]["progress"]["more_teachers"]] == ["moved"]


def test_a_student_that_has_passed_its_teacher_learns_alone(
    teacher: Path, recipe: Path, tmp_path: Path
) -> None:
    """As if the teacher's terms were not there, bit for bit, over an interruption too; or as it is told."""
    talker = copy_of(teacher, tmp_path / "talker")
    payload = load_checkpoint(find_checkpoint(talker))
    tokenizer = load_bundle(talker).tokenizer
    begin = next(i for i in range(3, tokenizer.vocab_size) if tokenizer.piece(i).startswith("▁"))
    payload["model"]["joiner.output.bias"][begin] = 50.0  # a word in every frame: many insertions
    save_checkpoint(find_checkpoint(talker), payload)
    alone = ["stages.0.loss_weights={ctc: 1.0}", "stages.1.loss_weights={rnnt: 1.0}"]
    runs = {"passed": [], "own": alone, "always": ["objective.follow=always"]}
    for name, changes in runs.items():
        changes = [f"objective.teacher={talker}", *changes] if name != "own" else changes
        options = [item for change in changes for item in ("--override", change)]
        calls = [("--until-stage", "hidden"), ()] if name == "passed" else [()]
        for until in calls:
            result = train(recipe, "student", *options, *until, exp=recipe.parent / name)
            assert result.exit_code == 0, result.output
    ends = {name: load_checkpoint(recipe.parent / name / "checkpoints" / "last.pt") for name in runs}
    progress = ends["passed"]["trainer"]["progress"]
    assert progress["alone_since"] == 0 and progress["teacher_score"] > 100
    assert (recipe.parent / "passed" / "train.log").read_text().count("has passed its teacher") == 1
    same = {
        name: [torch.equal(values, ends[name]["model"][key]) for key, values in ends["own"]["model"].items()]
        for name in ("passed", "always")
    }
    assert all(same["passed"]) and not all(same["always"])


def test_average_takes_the_last_checkpoints_of_the_final_stage(teacher: Path) -> None:
    result = kdasr("average", teacher, "--last", 2)
    assert result.exit_code == 0, result.output
    assert "train-0000002.pt" in result.output and "train-0000004.pt" in result.output
    bundle = load_bundle(teacher)
    assert bundle.path.name == "averaged.pt" and bundle.train_steps == 4
    kept = [load_checkpoint(teacher / "checkpoints" / f"train-000000{n}.pt")["model"] for n in (2, 4)]
    name = "joiner.output.weight"
    torch.testing.assert_close(bundle.model.state_dict()[name], (kept[0][name] + kept[1][name]) / 2)


def test_a_stage_in_epochs_hears_the_data_so_often(recipe: Path, data: Path, tmp_path: Path) -> None:
    """Also that word times which nothing has are asked for, or done without where the recipe says so."""
    changes = ("stages.0.num_steps=null", "stages.0.num_epochs=2", "training.optim.warmup_hours=0.001")
    overrides = [item for change in changes for item in ("--override", change)]
    bounds = ("--override", "objective.rnnt.left_buffer=0.0")
    refused = train(recipe, "teacher", *overrides, *bounds, exp=tmp_path / "refused")
    assert "left_buffer" in refusal(refused)
    ignored = ("--override", "objective.rnnt.without_word_times=ignore")
    result = train(recipe, "teacher", *overrides, *bounds, *ignored, exp=tmp_path / "exp")
    assert result.exit_code == 0, result.output
    log = (tmp_path / "exp" / "train.log").read_text()
    assert "left_buffer and right_buffer are ignored" in log
    schedule = json.loads((tmp_path / "exp" / "schedule.json").read_text())
    steps = schedule["stages"]["train"]
    assert steps == round(2 * schedule["steps_per_epoch"]) > 4
    assert f"stage 'train': {steps} steps, 2.0" in log
    last = load_checkpoint(tmp_path / "exp" / "checkpoints" / "last.pt")
    assert last["train_steps"] == steps
    position = last["trainer"]["processes"][0]["batches"]
    passes = position["epoch"] + position["step"] / schedule["steps_per_epoch"]
    assert passes == pytest.approx(2, abs=0.2)
    # The folder keeps what the recipe says, so that the same command finds the run.
    assert load_saved_experiment(tmp_path / "exp").stages[0].length == {"num_epochs": 2}
    again = train(recipe, "teacher", *overrides, *bounds, *ignored, exp=tmp_path / "exp")
    assert again.exit_code == 0 and "already trained" in again.output


def test_averaging_nothing_is_refused(tmp_path: Path) -> None:
    result = kdasr("average", tmp_path)
    assert isinstance(result.exception, UserError)
    assert f"{tmp_path}: no config.yaml there; expected the folder of a system" in str(result.exception)


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def refusal(result: Result) -> str:
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_missing_data_is_named(recipe: Path, data: Path, tmp_path: Path) -> None:
    def message(folder: Path) -> str:
        return refusal(train(recipe, "teacher", "--override", f"data.dir={folder}", exp=tmp_path / "exp"))

    assert "tokens" in message(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "exp")
    broken = copy_of(data, tmp_path / "data")
    (broken / "feature_stats.json").unlink()
    assert "feature_stats.json" in message(broken)


def test_missing_parts_stages_and_teachers_are_named(recipe: Path, tmp_path: Path) -> None:
    def message(system: str, *arguments: str) -> str:
        return refusal(train(recipe, system, *arguments, exp=tmp_path / arguments[-1] / system))

    assert "train-other-500" in message("teacher", "--override", "data.train_parts=[train-other-500]")
    assert "'last'" in message("teacher", "--until-stage", "last")
    assert "ghost" in message("student", "--override", "objective.teacher=ghost")
    assert "vocab_size" in message("teacher", "--override", "model.vocab_size=99")


def test_other_tokens_are_refused_for_a_teacher_and_for_a_resume(
    teacher: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    other = copy_of(data, tmp_path / "data")
    shutil.rmtree(other / "tokens")
    prepare_tokens(other, 23)
    use_other = ("--override", f"data.dir={other}")
    with_teacher = ("--override", f"objective.teacher={teacher}")
    begun, student = teacher.parent / "begun", tmp_path / "student"
    assert train(recipe, "student", *with_teacher, "--until-stage", "hidden", exp=begun).exit_code == 0
    message = refusal(train(recipe, "student", *use_other, *with_teacher, exp=begun))
    assert f"{other / 'tokens'}: not the tokens that" in message
    message = refusal(train(recipe, "student", *use_other, *with_teacher, exp=student))
    assert "other tokens" in message and "objective.teacher" in message
    shutil.rmtree(other / "tokens")
    shutil.copytree(data / "tokens", other / "tokens")
    message = refusal(
        train(recipe, "student", *use_other, "--override", f"objective.teacher={teacher}", exp=student)
    )
    assert "tokens" in message and str(student) in message


def test_a_run_goes_on_elsewhere_with_another_loader_to_the_same_bits(
    teacher: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    """Half of a student, then data, teacher and experiment folder move and all that may change changes."""
    whole, old = tmp_path / "whole" / "student", tmp_path / "old"
    by = ("--override", f"objective.teacher={old / 'teacher'}")
    copy_of(teacher, whole.parent / "teacher"), copy_of(teacher, old / "teacher"), copy_of(data, old / "data")
    for folder in (whole.parent, old):
        (folder / "teacher" / "checkpoints" / "averaged.pt").unlink(missing_ok=True)
    at = ("--override", f"data.dir={old / 'data'}", *by)
    assert train(recipe, "student", *at, exp=whole).exit_code == 0
    assert train(recipe, "student", *at, "--until-stage", "hidden", exp=old / "student").exit_code == 0
    new = tmp_path / "new"
    old.rename(new)
    # A checkpoint that would now be preferred: the run keeps to the one that it began with.
    assert kdasr("average", new / "teacher").exit_code == 0
    changes = (f"data.dir={new / 'data'}", f"objective.teacher={new / 'teacher'}", "data.num_workers=1")
    changes += (
        "training.max_bad_batches=2",
        "training.recompute_layers=true",
        "objective.rnnt.backend=native",
    )
    options = [word for change in changes for word in ("--override", change)]
    result = train(recipe, "student", *options, exp=new / "student")
    assert result.exit_code == 0, result.output
    one, other = (load_checkpoint(exp / "checkpoints" / "last.pt") for exp in (whole, new / "student"))
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    log = (new / "student" / "train.log").read_text()
    assert "goes on with other options" in log and "data.num_workers: 0 -> 1" in log
    assert load_saved_experiment(new / "student").data.dir == str(new / "data")


def test_other_data_or_another_teacher_in_the_same_place_are_refused(
    teacher: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    own, exp = copy_of(teacher, tmp_path / "teacher"), tmp_path / "student"
    arguments = ("--override", f"objective.teacher={own}")
    assert train(recipe, "student", *arguments, "--until-stage", "hidden", exp=exp).exit_code == 0
    corpus = write_corpus(tmp_path / "corpus", utterances=2)
    fewer = tmp_path / "fewer"
    prepare_corpus(PrepareOptions(corpus, fewer, ("train-clean-100", "dev-clean"), speeds=(1.0,)))
    copy_of(data / "tokens", fewer / "tokens")
    message = refusal(train(recipe, "student", *arguments, "--override", f"data.dir={fewer}", exp=exp))
    assert message == (
        f"data.dir: {fewer}: not the training data that {exp} began with: 4 utterances, 6 then"
    )
    assert load_saved_experiment(exp).data.dir == str(data)
    checkpoint = Path(load_checkpoint(exp / "checkpoints" / "last.pt")["trainer"]["progress"]["teacher"])
    payload = torch.load(checkpoint, weights_only=True)
    payload["model"]["joiner.output.bias"] += 1.0
    torch.save(payload, checkpoint)
    message = refusal(train(recipe, "student", *arguments, exp=exp))
    assert "objective.teacher" in message and "began to learn from" in message and str(checkpoint) in message


def run_main(arguments: list[str]) -> None:
    sys.argv = ["kdasr", *arguments]
    main()


def test_ctrl_c_leaves_a_checkpoint_and_exit_status_130(recipe: Path, tmp_path: Path) -> None:
    exp = tmp_path / "teacher"
    command = ["train", "--config", recipe, "--system", "teacher", "--exp", exp]
    long = ["--override", "stages=[{name: train, num_steps: 100000, loss_weights: {ctc: 1.0}}]"]
    arguments = [str(word) for word in [*command, *long]]
    child = processes.Process(target=run_main, args=(arguments,))
    child.start()
    deadline = time.monotonic() + 120
    while not _has_rows(exp) and child.is_alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join()
    assert child.exitcode == 130
    saved: dict[str, Any] = load_checkpoint(exp / "checkpoints" / "last.pt")
    assert saved["train_steps"] >= 2 and saved["trainer"]["progress"]["stage"] == 0


def test_one_training_at_a_time_in_a_folder(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "exp"
    folder.mkdir()
    with processes.Pool(1) as pool:
        pool.apply(_hold_lock, (folder / ".lock",))
        assert "another process trains there" in refusal(train(recipe, "teacher", exp=folder))
    assert train(recipe, "teacher", exp=folder).exit_code == 0


def _hold_lock(path: Path) -> None:
    """Take the lock for as long as this process lives."""
    lock = process_lock(path)
    assert lock.__enter__()
    _held.append(lock)


_held: list[AbstractContextManager[bool]] = []


def _has_rows(exp: Path) -> bool:
    path = exp / "metrics.jsonl"
    return path.is_file() and path.stat().st_size > 0


def test_the_resolved_configuration_is_saved(teacher: Path) -> None:
    config = load_saved_experiment(teacher)
    assert config.name == "teacher" and config.training.keep_last == 5
    assert config.stages[0].loss_weights == {"rnnt": 1.0, "ctc": 0.5}


def test_only_readable_students_without_a_teacher_are_compared(tmp_path: Path) -> None:
    context = Context(left=8, chunk=4)
    rows = json.dumps({"split": "valid", "step": 1, "wer": 7.5}) + "\n"
    weights = {"plain": {"rnnt": 1.0}, "taught": {"rnnt": 1.0, "hidden_mse": 1.0}}
    for name, loss_weights in weights.items():
        stages = [StageConfig(loss_weights=loss_weights)]
        save_yaml(ExperimentConfig(contexts=[context], stages=stages), tmp_path / name / "config.yaml")
        (tmp_path / name / "metrics.jsonl").write_text(rows)
    save_yaml(ExperimentConfig(), tmp_path / "offline" / "config.yaml")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("model: 3\n")
    assert plain_students(tmp_path, context) == {"plain": 7.5}
