import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import (
    TWO_TERMS,
    RandomBatches,
    fit,
    random_batch,
    small_model,
    small_objective,
    tiny_system,
    trainer_config,
)

from kdasr.checkpoint import load_checkpoint
from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.distillation.objective_config import StageConfig
from kdasr.nn.context import Context, ContextChoice
from kdasr.training.resume import Progress
from kdasr.training.stage import reached_plateau, update_best
from kdasr.training.system import System


def rows(exp_dir: Path, split: str) -> list[dict[str, Any]]:
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def files(exp_dir: Path) -> set[str]:
    return {path.name for path in (exp_dir / "checkpoints").iterdir()}


class OneBatch(RandomBatches):
    """The same batch for ever."""

    def __next__(self) -> Batch:
        super().__next__()
        return random_batch(0)


def test_it_learns_a_batch_by_heart(tmp_path: Path) -> None:
    system = tiny_system(
        tmp_path,
        model=small_model(dim=32),
        objective=small_objective(),
        stages=[StageConfig(name="only", num_steps=150, learning_rate=1e-2, loss_weights=TWO_TERMS)],
        config=trainer_config(log_every=1, validate_every=150),
        train_batches=OneBatch(),
        valid_batches=lambda: [random_batch(0)],
    )
    fit(system)
    losses = [row["terms"]["ctc"] for row in rows(tmp_path, "train")]
    assert losses[-1] < 0.2 * losses[0]
    assert rows(tmp_path, "valid")[-1]["wer"] < 50


def test_rows_say_what_their_readers_expect(tmp_path: Path) -> None:
    fit(tiny_system(tmp_path))
    train, valid = rows(tmp_path, "train"), rows(tmp_path, "valid")
    assert [row["step"] for row in train] == [2, 4, 6]
    assert [row["step"] for row in valid] == [3, 6]
    common = {"split", "stage", "step", "stage_step", "total", "terms", "seconds"}
    assert set(train[0]) == common | {"lr", "grad_norm", "audio_hours_per_second"}
    assert set(valid[0]) == common | {"wer", "cer"}
    for row in (*train, *valid):
        expected = sum(weight * row["terms"][name] for name, weight in TWO_TERMS.items())
        assert row["total"] == pytest.approx(expected, rel=1e-5)
    assert train[0]["lr"] == pytest.approx(3e-3)


def test_every_step_draws_its_context_and_every_evaluated_one_is_validated(tmp_path: Path) -> None:
    choice = ContextChoice(left=[4, 8], chunk=[2, 4], full_probability=0.3)
    drawn: list[Context] = []
    measured: list[Context] = []
    model, evaluated = small_model(), [Context(4, 2, 1), Context.full()]
    model.register_forward_pre_hook(
        lambda own, inputs: (drawn if own.training else measured).append(inputs[3])
    )
    fit(tiny_system(tmp_path, model=model, contexts=evaluated, context_choice=choice))
    assert drawn == [choice.draw(seed=5, step=step) for step in range(6)]
    # Two validations of two batches.
    assert measured == [context for _ in range(2) for context in evaluated for _ in range(2)]
    for row in rows(tmp_path, "valid"):
        assert list(row["contexts"]) == ["left=4 chunk=2 right=1", "full"]
        assert row["contexts"]["left=4 chunk=2 right=1"] == {"wer": row["wer"], "cer": row["cer"]}
    kept = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert kept["context"] == {"left": 4, "chunk": 2, "right": 1}


def test_checkpoints_are_kept_as_configured(tmp_path: Path) -> None:
    stages = [StageConfig(name=name, num_steps=6, loss_weights=TWO_TERMS) for name in ("one", "two-1")]
    fit(tiny_system(tmp_path, stages=stages, config=trainer_config(validate_every=2)))
    assert files(tmp_path) == {
        *("one-0000006.pt", "one-averaged.pt", "two-1-0000010.pt", "two-1-0000012.pt"),
        *("best.pt", "last.pt"),
    }
    for name in files(tmp_path):
        payload = load_checkpoint(tmp_path / "checkpoints" / name)
        assert ("trainer" in payload) == (name == "last.pt")
        assert payload["context"] == {"left": -1, "chunk": -1, "right": 0}
        assert payload["system"] == "tiny" and payload["tokenizer_fingerprint"] == "letters"
    assert load_checkpoint(tmp_path / "checkpoints" / "one-0000006.pt")["train_steps"] == 6


def test_finished_training_is_left_alone(tmp_path: Path) -> None:
    fit(tiny_system(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()}
    fit(tiny_system(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints").iterdir()} == before


def test_bad_batches_are_skipped_named_and_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(
        "kdasr.training.bad_batches.logger.warning", lambda text, *values: messages.append(text % values)
    )
    # The sound batches are numbers 0, 1, 4, 5, 6 and 7: with the bad ones between, and without them.
    bad = tiny_system(
        tmp_path / "bad",
        config=trainer_config(max_bad_batches=3),
        train_batches=RandomBatches(bad=(2, 3)),
    )
    trainer = fit(bad)
    assert trainer.progress.step == 6 and bad.train_batches.state_dict() == {"position": 8}
    assert "rnnt" in messages[0] and "utt-2-1" in messages[0] and "utt-2-0" not in messages[0]
    assert len(messages) == 2
    good = tiny_system(tmp_path / "good", train_batches=Picked([0, 1, 4, 5, 6, 7]))
    fit(good)
    for (name, value), other in zip(
        good.model.state_dict().items(), bad.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name


class Picked(RandomBatches):
    """Some numbers of the random batches."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__()
        self.numbers = numbers

    def __next__(self) -> Batch:
        self.position += 1
        return random_batch(self.numbers[self.position - 1] % 4)


def test_an_utterance_that_no_path_fits_is_named_and_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr(
        "kdasr.training.lost.logger.warning", lambda text, *values: messages.append(text % values)
    )
    system = tiny_system(tmp_path / "some", train_batches=RandomBatches(too_short=(2, 3)))
    trainer = fit(system)
    assert trainer.progress.step == 6 and system.train_batches.state_dict() == {"position": 6}
    assert [message.split(": ", 1)[1] for message in messages] == [
        "no path fits utt-2-1: left out (1 of 9 utterances so far)",
        "no path fits utt-3-1: left out (2 of 12 utterances so far)",
    ]
    monkeypatch.setattr("kdasr.training.lost.FEW", 1)
    too_many = tiny_system(tmp_path / "many", train_batches=RandomBatches(too_short=(2, 3)))
    with pytest.raises(UserError, match=r"no path fits 2 of 12 .* training\.max_lost \(0\.05\).*utt-3-1"):
        fit(too_many)


def test_too_many_bad_batches_in_a_row_stop_training(tmp_path: Path) -> None:
    config = trainer_config(max_bad_batches=3)
    system = tiny_system(tmp_path, config=config, train_batches=RandomBatches(bad=range(4, 99)))
    with pytest.raises(UserError, match=r"3 batches in a row.*rnnt.*utt-2-1"):
        fit(system)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert saved["train_steps"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in saved["model"].values())


@pytest.mark.parametrize("kind", ["not a number", "too short"])
def test_a_dev_utterance_without_finite_loss_is_named(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The results are those without it; one that is too short for its pieces still counts in the WER."""
    messages: list[str] = []
    monkeypatch.setattr(
        "kdasr.training.transducer.logger.warning", lambda text, *values: messages.append(text % values)
    )
    spoilt, clean = random_batch(100), random_batch(100).select([0, 2])
    if kind == "not a number":
        spoilt.features_BTF[1, 3, 2] = math.nan
    else:
        spoilt.feature_lens_B[1] = 3
    for name, batch in (("spoilt", spoilt), ("clean", clean)):
        system = tiny_system(tmp_path / name, valid_batches=lambda batch=batch: [batch])
        fit(system)
    with_it, without = rows(tmp_path / "spoilt", "valid"), rows(tmp_path / "clean", "valid")
    for left, right in zip(with_it, without, strict=True):
        # A lattice of utterances with fewer frames than pieces is pruned less.
        assert left["terms"] == pytest.approx(right["terms"], rel=1e-5 if kind == "not a number" else 0.02)
        assert kind == "too short" or left["wer"] == right["wer"]
    assert messages[0] == "dev utterances whose loss is not finite, left out of it: utt-100-1"
    assert (tmp_path / "spoilt" / "checkpoints" / "best.pt").is_file()


def test_what_is_not_finite_is_neither_the_best_nor_a_plateau() -> None:
    progress, stage = Progress(), StageConfig(plateau_patience=2)
    assert not update_best(progress, 0.0, math.nan) and update_best(progress, 50.0, 2.0)
    values = [5.0, math.nan, math.nan, math.inf, 5.5, math.nan, 5.5]
    over = [reached_plateau(progress, stage, {"hidden_mse": value}) for value in values]
    assert over == [False] * 6 + [True]


def test_without_a_checkpoint_none_is_mentioned(tmp_path: Path) -> None:
    config = trainer_config(max_bad_batches=2)
    with pytest.raises(UserError, match=r"2 batches in a row.*look at the data\.$"):
        fit(tiny_system(tmp_path, config=config, train_batches=RandomBatches(bad=range(99))))


def test_a_bad_gradient_alone_is_enough_to_skip(tmp_path: Path) -> None:
    system = tiny_system(tmp_path, config=trainer_config(max_bad_batches=1))
    system.model.ctc_head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(UserError, match="gradient"):
        fit(system)
    assert all(bool(torch.isfinite(value).all()) for value in system.model.state_dict().values())


def plateau_system(exp_dir: Path, patience: int) -> System:
    """A stage whose hidden states hardly move, then another one."""
    stages = [
        StageConfig(
            name="hidden",
            num_steps=40,
            loss_weights={"ctc": 1.0, "hidden_mse": 0.0},
            freeze=["encoder"],
            plateau_patience=patience,
        ),
        StageConfig(name="after", num_steps=2, loss_weights={"ctc": 1.0}),
    ]
    return tiny_system(
        exp_dir,
        stages=stages,
        objective=small_objective(with_teacher=True),
        config=trainer_config(validate_every=2),
    )


def test_a_plateau_of_the_hidden_states_ends_the_stage(tmp_path: Path) -> None:
    # The encoder is frozen: the first validation sets the best value, the next three do not improve on it.
    trainer = fit(plateau_system(tmp_path, patience=3))
    assert [row["stage_step"] for row in rows(tmp_path, "valid")] == [2, 4, 6, 8, 2]
    assert trainer.progress.stages_done == 2 and trainer.progress.step == 10


def test_plateau_counts_from_the_last_improvement() -> None:
    stage, progress = StageConfig(plateau_patience=2), Progress()
    values = [5.0, 4.0, 4.0, 3.9, 3.9, 3.9]
    over = [reached_plateau(progress, stage, {"hidden_mse": value}) for value in values]
    assert over == [False, False, False, False, False, True]
    assert not any(reached_plateau(progress, StageConfig(), {"hidden_mse": 9.0}) for _ in range(9))


def test_best_is_by_wer_then_by_loss() -> None:
    progress = Progress()
    results = [(50.0, 2.0), (50.0, 1.5), (50.0, 1.6), (60.0, 0.5), (40.0, 9.0), (40.0, 9.0)]
    assert [update_best(progress, *result) for result in results] == [True, True, False, False, True, False]


def test_bf16_trains_on_unrounded_features(tmp_path: Path) -> None:
    seen = []
    system = tiny_system(tmp_path, config=trainer_config(precision="bf16-mixed"))
    system.model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    trainer = fit(system)
    assert set(seen) == {torch.float32} and trainer.progress.step == 6
    assert all(value.dtype == torch.float32 for value in system.model.state_dict().values())


def test_wrong_precision_and_accelerator_are_named(tmp_path: Path) -> None:
    for change, culprit in (({"precision": "fp4"}, "fp4"), ({"accelerator": "abacus"}, "abacus")):
        with pytest.raises(UserError, match=culprit):
            fit(tiny_system(tmp_path, config=trainer_config(**change)))
