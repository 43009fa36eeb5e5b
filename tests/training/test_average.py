"""A running average of the weights: its values, and that it is what is measured, kept and started from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import TWO_TERMS, RandomBatches, fit, tiny_system, trainer_config
from torch import nn

from kdasr.checkpoint import load_checkpoint
from kdasr.distillation.objective_config import StageConfig
from kdasr.training.average import RunningAverage
from kdasr.training.interrupt import TrainingInterrupted


def metrics(exp_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


def test_the_average_forgets_its_start_and_then_decays() -> None:
    model = nn.BatchNorm1d(3)
    average = RunningAverage(model, decay=0.6)
    expected = torch.ones(3)
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(float(step))
        model.running_mean.fill_(step)  # type: ignore[union-attr,operator]
        average.update()
        stays = min(0.6, step / (step + 9))
        expected = stays * expected + (1 - stays) * step
    torch.testing.assert_close(average.model.weight, expected)
    # What is counted rather than learnt is as in the model.
    assert average.model.running_mean.tolist() == [19.0] * 3  # type: ignore[union-attr,operator]


def test_it_is_what_is_measured_and_kept_and_a_resume_is_exact(tmp_path: Path) -> None:
    config = trainer_config(average_decay=0.5)
    stages = [StageConfig(name=name, num_steps=4, loss_weights=dict(TWO_TERMS)) for name in ("one", "two")]
    whole = fit(tiny_system(tmp_path / "whole", stages=stages, config=config))
    last = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.pt")
    assert whole.average is not None
    for name, value in whole.average.model.state_dict().items():
        assert torch.equal(last["model"][name], value), name
    for name, value in whole.system.model.state_dict().items():
        assert torch.equal(last["trainer"]["weights"][name], value), name
    assert not torch.equal(
        last["model"]["joiner.output.weight"], last["trainer"]["weights"]["joiner.output.weight"]
    )

    # Interrupted in the second stage: the same bits.
    cut = tiny_system(
        tmp_path / "cut", stages=stages, config=config, train_batches=RandomBatches(interrupt_at=5)
    )
    with pytest.raises(TrainingInterrupted):
        fit(cut)
    fit(tiny_system(tmp_path / "cut", stages=stages, config=config))
    again = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last.pt")
    for state, other in (
        (last["model"], again["model"]),
        (last["trainer"]["weights"], again["trainer"]["weights"]),
    ):
        assert all(torch.equal(state[name], other[name]) for name in state)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_its_dev_results_are_those_of_the_averaged_weights(tmp_path: Path) -> None:
    trainer = fit(tiny_system(tmp_path / "average", config=trainer_config(average_decay=0.9)))
    assert trainer.average is not None
    measured = trainer.validate()
    trainer.measured = trainer.module
    raw = trainer.validate()
    assert measured is not None and raw is not None
    row = metrics(tmp_path / "average")[-1]
    assert row["split"] == "valid" and row["total"] == pytest.approx(measured.total, rel=1e-6)
    assert raw.total != pytest.approx(measured.total, rel=1e-4)


def test_the_next_stage_starts_from_it_alone(tmp_path: Path) -> None:
    stages = [
        StageConfig(name="one", num_steps=6, loss_weights=dict(TWO_TERMS)),
        StageConfig(name="two", num_steps=0, loss_weights=dict(TWO_TERMS)),
    ]
    fit(tiny_system(tmp_path, stages=stages, config=trainer_config(average_decay=0.5, validate_every=2)))
    folder = tmp_path / "checkpoints"
    kept, start = (load_checkpoint(folder / f"{name}-0000006.pt")["model"] for name in ("one", "two"))
    assert all(torch.equal(kept[name], start[name]) for name in kept)
    assert not (folder / "one-averaged.pt").exists()
