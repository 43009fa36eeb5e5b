"""A teacher that is no better than what it teaches is named."""

import json
from pathlib import Path

import pytest
from lightning_fabric import Fabric

from kdasr.data.data_config import DataConfig
from kdasr.data.loader import valid_batches
from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.objective import Objective
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.nn.context import Context
from kdasr.testing import dummy_cuts, tiny_model
from kdasr.training.module import TrainingModule
from kdasr.training.resume import Progress
from kdasr.training.teacher_lead import last_dev_wer, leave_teacher_if_passed, weak_teacher
from kdasr.training.transducer import validate_model, validate_transducer


def test_a_model_is_measured_as_in_validation_and_keeps_its_mode(tokenizer: Tokenizer) -> None:
    model = tiny_model(vocab_size=tokenizer.vocab_size).train()
    context, fabric = Context(left=8, chunk=4), Fabric(accelerator="cpu", devices=1)
    batches = valid_batches(dummy_cuts(4), tokenizer, DataConfig(max_duration=4.0))
    module = TrainingModule(model, Objective(ObjectiveConfig(), model.config, None))
    expected = validate_transducer(fabric, module, batches, tokenizer, context, {"rnnt": 1.0})
    assert expected is not None and expected.criterion > 0
    for training in (True, False):
        model.train(training)
        module.objective.train(not training)
        found = validate_model(fabric, model, module.objective, batches, tokenizer, context)
        assert found.criterion == pytest.approx(expected.criterion)
        assert model.training is training and module.objective.training is not training


def test_the_last_validation_counts(tmp_path: Path) -> None:
    assert last_dev_wer(tmp_path) is None
    rows = [
        {"split": "valid", "wer": 30.0},
        {"split": "valid", "wer": 12.5},
        {"split": "train", "total": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert last_dev_wer(tmp_path) == 12.5
    with (tmp_path / "metrics.jsonl").open("a") as file:  # another process is writing it
        file.write('{"split": "valid", "we')
    assert last_dev_wer(tmp_path) == 12.5


@pytest.mark.parametrize(
    ("score", "lead", "alone"),
    [(9.0, 0.0, False), (8.9, 0.0, True), (10.0, 0.1, False), (9.9, 0.1, True), (8.0, 0.1, True)],
)
def test_a_teacher_without_its_lead_is_left_once(score: float, lead: float, alone: bool) -> None:
    progress = Progress(step=70, teacher_score=9.0, teacher_lead=lead)
    leave_teacher_if_passed(progress, score)
    assert progress.alone_since == (70 if alone else -1)
    progress.step = 80
    leave_teacher_if_passed(progress, 1.0)  # also if it falls behind and passes it again
    assert progress.alone_since == (70 if alone else 80)


def test_what_is_as_good_as_the_teacher_is_named() -> None:
    assert weak_teacher(5.0, {"streaming-init": 6.0}) is None
    text = weak_teacher(5.7, {"streaming": 9.0, "streaming-init": 2.7, "the student's start": 5.7})
    assert text is not None and "5.70 %" in text
    assert "streaming-init 2.70 %" in text and "the student's start" in text and "streaming 9" not in text
