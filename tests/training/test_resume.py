"""A run that was stopped in any way and started again ends with the same bits as one that was not."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_system import (
    TWO_TERMS,
    RandomBatches,
    fit,
    processes,
    tiny_system,
    trainer_config,
    two_stage_system,
)

import kdasr.checkpoint
from kdasr.checkpoint import find_checkpoint, load_checkpoint
from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import StageConfig
from kdasr.training.interrupt import TrainingInterrupted, TrainingStop
from kdasr.training.resume import (
    Progress,
    batches_per_process,
    own_state,
    rng_state,
    set_rng_state,
    truncate_metrics,
)
from kdasr.training.stage import stages_done
from kdasr.training.trainer import Trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exp_dir = tmp_path_factory.mktemp("uninterrupted")
    fit(two_stage_system(exp_dir))
    return exp_dir


def train_and_die(exp_dir: Path, kill_at_batch: int, kill_at_write: int) -> None:
    """Train in this process and end it by SIGKILL at a batch, or half-way through a checkpoint file."""
    system = two_stage_system(exp_dir, train_batches=RandomBatches(kill_at=kill_at_batch))
    save, writes = torch.save, 0

    def save_half(payload: Any, file: Any) -> None:
        nonlocal writes
        writes += 1
        if writes == kill_at_write:
            file.write(b"PK half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(payload, file)

    kdasr.checkpoint.torch.save = save_half  # type: ignore[attr-defined]
    fit(system)


def assert_same_run(left: Path, right: Path) -> None:
    one, other = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (left, right))
    assert one["train_steps"] == other["train_steps"] == 10
    for part in ("model", "objective"):
        a, b = (c["model"] if part == "model" else c["trainer"]["objective"] for c in (one, other))
        assert a.keys() == b.keys() and len(a) > 0
        for name in a:
            assert torch.equal(a[name], b[name]), f"{part}: {name}"
    for part, moment in (("muon", "momentum_buffer"), ("adamw", "exp_avg_sq")):
        states = [checkpoint["trainer"]["optimizer"][part]["state"] for checkpoint in (one, other)]
        assert states[0].keys() == states[1].keys() and len(states[0]) > 0
        for index, state in states[0].items():
            assert torch.equal(state[moment], states[1][index][moment]), f"{part}: {index}"
    assert metrics(left) == metrics(right)


def metrics(exp_dir: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (exp_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def test_the_uninterrupted_run_logs_every_step_once(uninterrupted: Path) -> None:
    rows = metrics(uninterrupted)
    assert [row["step"] for row in rows if row["split"] == "train"] == [2, 4, 5, 6, 8, 10]
    assert [row["step"] for row in rows if row["split"] == "valid"] == [3, 5, 8, 10]


# Two batches make a step. Files: at steps 3 and 5 the stage's own, perhaps best.pt, and last.pt.
@pytest.mark.parametrize(("kill_at_batch", "kill_at_write"), [(1, -1), (9, -1), (14, -1), (-1, 2), (-1, 6)])
def test_resume_after_sigkill_is_exact(
    uninterrupted: Path, tmp_path: Path, kill_at_batch: int, kill_at_write: int
) -> None:
    victim = processes.Process(target=train_and_die, args=(tmp_path, kill_at_batch, kill_at_write))
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL
    fit(two_stage_system(tmp_path))
    assert_same_run(uninterrupted, tmp_path)


def test_what_a_training_has_left_without_its_last_checkpoint_is_set_aside(
    uninterrupted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(uninterrupted, exp)
    folder = exp / "checkpoints"
    (folder / "last.pt").unlink()
    latest = max(folder.glob("*-*.pt"), key=lambda path: path.stem[-7:])
    latest.rename(folder / f"{latest.stem[:-7]}0000099.pt")  # of a longer training
    fit(two_stage_system(exp))
    assert_same_run(uninterrupted, exp)
    names = {path.name for path in folder.glob("*.pt")}
    assert names == {path.name for path in (uninterrupted / "checkpoints").glob("*.pt")}
    assert any(path.stem.endswith("99") for path in (folder / "earlier-1").iterdir())
    assert "checkpoints of an earlier training" in caplog.text


def test_an_average_stands_for_a_training_until_it_goes_on(uninterrupted: Path, tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(uninterrupted, exp)
    averaged = exp / "checkpoints" / "averaged.pt"
    averaged.write_bytes(b"of ten steps")
    fit(two_stage_system(exp))
    assert find_checkpoint(exp) == averaged
    longer = two_stage_system(exp)
    longer.stages[-1].num_steps = 7
    fit(longer)
    assert find_checkpoint(exp).name in ("best.pt", "last.pt")
    assert (averaged.parent / "earlier-1" / averaged.name).read_bytes() == b"of ten steps"


@pytest.mark.parametrize("interrupt_at", [5, 18])
def test_ctrl_c_finishes_the_step_and_the_resume_is_exact(
    uninterrupted: Path, tmp_path: Path, interrupt_at: int
) -> None:
    with pytest.raises(TrainingInterrupted, match=r"last\.pt"):
        fit(two_stage_system(tmp_path, train_batches=RandomBatches(interrupt_at=interrupt_at)))
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert saved["train_steps"] == interrupt_at // 2 + 1
    fit(two_stage_system(tmp_path))
    assert_same_run(uninterrupted, tmp_path)


def test_ctrl_c_in_a_validation_repeats_it_on_resume(uninterrupted: Path, tmp_path: Path) -> None:
    system = two_stage_system(tmp_path)
    batches = list(system.valid_batches())

    def interrupted_batches() -> Any:
        torch.randn(1)  # a loader may draw random numbers: training does not notice
        yield batches[0]
        os.kill(os.getpid(), signal.SIGINT)
        yield batches[1]

    system.valid_batches = interrupted_batches
    with pytest.raises(TrainingInterrupted, match="step 3"):
        fit(system)
    fit(two_stage_system(tmp_path))
    assert_same_run(uninterrupted, tmp_path)


def test_stage_by_stage_is_the_same_run(uninterrupted: Path, tmp_path: Path) -> None:
    fit(two_stage_system(tmp_path), until_stage="hidden")
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["train_steps"] == 5
    fit(two_stage_system(tmp_path))
    assert_same_run(uninterrupted, tmp_path)


def test_a_longer_last_stage_goes_on_as_if_it_had_been_so(tmp_path: Path) -> None:
    config = trainer_config()
    config.optim.decay = "constant"

    def steps(count: int) -> dict[str, Any]:
        only = StageConfig(name="only", num_steps=count, loss_weights=dict(TWO_TERMS))
        return {"stages": [only], "config": config}

    fit(tiny_system(tmp_path / "whole", **steps(9)))
    fit(tiny_system(tmp_path / "longer", **steps(6)))
    fit(tiny_system(tmp_path / "longer", **steps(9)))
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("whole", "longer")
    )
    assert one["train_steps"] == other["train_steps"] == 9
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "longer")
    # A plateau has ended the stage for good.
    ended = Progress(stage_step=3, stage_over=True, plateau_count=2)
    assert stages_done(ended, [StageConfig(num_steps=9, plateau_patience=2)]) == 1
    assert stages_done(ended, [StageConfig(num_steps=9)]) == 0


def test_the_last_checkpoint_is_also_written_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    save = Trainer.save

    def noting(trainer: Trainer, *, keep: bool, best: bool) -> None:
        save(trainer, keep=keep, best=best)
        seen.append((trainer.progress.step, keep))

    monkeypatch.setattr(Trainer, "save", noting)
    fit(tiny_system(tmp_path / "often", config=trainer_config(save_minutes=1e-9)))
    often, seen = seen, []
    fit(tiny_system(tmp_path / "rarely"))
    assert seen == [(3, True), (6, True)]
    assert [step for step, keep in often if not keep] == [1, 2, 3, 4, 5, 6]
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("often", "rarely")
    )
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_signals_work_as_before_after_training(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(tiny_system(tmp_path))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_random_states_come_back() -> None:
    torch.randn(3), np.random.randn(3), random.gauss(0, 1)
    state = rng_state()
    draws = [
        (random.random(), random.gauss(0, 1), np.random.randn(), float(torch.randn(()))) for _ in range(2)
    ]
    set_rng_state(state)
    assert draws == [
        (random.random(), random.gauss(0, 1), np.random.randn(), float(torch.randn(()))) for _ in range(2)
    ]


def test_rows_after_the_checkpoint_and_a_torn_row_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 2, "spl')
    truncate_metrics(path, last_step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_last_checkpoint_without_training_state_is_refused(tmp_path: Path) -> None:
    fit(tiny_system(tmp_path))
    shutil.copyfile(tmp_path / "checkpoints" / "best.pt", tmp_path / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: holds weights only"):
        fit(tiny_system(tmp_path))


def test_another_number_of_processes_shares_the_same_batches_per_step(tmp_path: Path) -> None:
    assert batches_per_process(tmp_path, accumulate=3, world_size=5) == 3
    trainer = fit(tiny_system(tmp_path, config=trainer_config(accumulate=6)))
    assert [batches_per_process(tmp_path, 6, count) for count in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(UserError, match=r"6 batches per optimizer step.* 4 processes.*possible: 1, 2, 3, 6$"):
        batches_per_process(tmp_path, 6, 4)
    states = [{"batches": 1, "rng": rank} for rank in range(2)]
    assert own_state(states, trainer.fabric) == {"batches": 1}
    assert own_state(states[1:], trainer.fabric) == {"batches": 1, "rng": 1}


def test_a_second_signal_is_not_caught(tmp_path: Path) -> None:
    request = TrainingStop()
    with request.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert request.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
