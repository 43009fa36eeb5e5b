"""Two processes and the real loader: a resume hears what is left, on as many processes or on others."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny_system import TWO_TERMS, fit, small_config, tiny_system, trainer_config
from two_processes import run_two, under_torchrun

from kdasr.checkpoint import load_checkpoint, save_checkpoint
from kdasr.data.batch import Batch
from kdasr.data.data_config import DataConfig
from kdasr.data.loader import TrainLoader
from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig, StageConfig
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.testing import dummy_cuts
from kdasr.training import trainer
from kdasr.training.interrupt import TrainingInterrupted
from kdasr.training.system import System
from kdasr.training.validation import Validation

NUM_CUTS = 20


class Noted(TrainLoader):
    """Writes down which utterances it hands out, and stops the training at a batch if asked to."""

    note: Path
    stop_at = -1
    handed_out = 0

    def __next__(self) -> Batch:
        batch = super().__next__()
        with self.note.open("a") as file:
            file.write(json.dumps([self.epoch, batch.ids]) + "\n")
        self.handed_out += 1
        if self.handed_out == self.stop_at:
            os.killpg(os.getpgrp(), signal.SIGTERM)  # its workers too, as torchrun does
        return batch


def system_on(exp_dir: Path, tokens: Path, rank: int, world_size: int, stop_at: int) -> System:
    """Trains for six steps of two batches each; an epoch has about ten batches."""
    tokenizer = Tokenizer.load(tokens)
    loader = Noted(
        dummy_cuts(NUM_CUTS, with_features=False),
        tokenizer,
        DataConfig(max_duration=6.0, num_buckets=2, num_workers=1),
        seed=3,
        rank=rank,
        world_size=world_size,
    )
    loader.note = exp_dir / f"heard-{rank}-of-{world_size}"
    loader.stop_at = stop_at
    torch.manual_seed(0)
    config = replace(small_config(), num_features=80, vocab_size=tokenizer.vocab_size)
    return tiny_system(
        exp_dir,
        stages=[StageConfig(name="only", num_steps=6, loss_weights=dict(TWO_TERMS))],
        config=trainer_config(accumulate=2 // world_size, validate_every=100),
        model=build_transducer(config),
        objective=Objective(ObjectiveConfig(rnnt=RnntConfig(warmup_steps=4)), config, None),
        tokenizer=tokenizer,
        train_batches=loader,
        valid_batches=lambda: [],
        validate=lambda *_, **__: Validation(1.0, {}, {"wer": 1.0}),
    )


def train(rank: int, port: int, exp_dir: Path, tokens: Path, stop_at: int) -> None:
    """What one of two processes does, each in a group of its own. It ends with 3 when it was stopped."""
    os.setsid()
    under_torchrun(rank, port)
    if stop_at >= 0:
        trainer.save_checkpoint = save_slowly  # type: ignore[attr-defined]
    try:
        fit(system_on(exp_dir, tokens, rank, 2, stop_at if rank == 0 else -1))
    except TrainingInterrupted:
        # One process ends before the other: torchrun ends those that still run.
        os._exit(3 if (exp_dir / "checkpoints" / "last.pt").is_file() else 4)


def save_slowly(path: Path, payload: dict[str, Any]) -> None:
    """torchrun may tell a process to stop once more, while it saves."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)
    save_checkpoint(path, payload)


def heard(exp_dir: Path) -> list[Any]:
    """What each process was handed out."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(exp_dir.glob("heard-*"))
    ]


def test_two_processes_go_on_exactly_and_one_with_what_is_left(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokens = tokenizer.model_path.parent
    whole, stopped, alone = (tmp_path / name for name in ("whole", "stopped", "alone"))
    for folder in (whole, stopped):
        folder.mkdir()
    assert run_two(train, whole, tokens, -1) == [0, 0]
    assert run_two(train, stopped, tokens, 3) == [3, 3]
    shutil.copytree(stopped, alone)
    assert run_two(train, stopped, tokens, -1) == [0, 0]
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, stopped))
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    assert heard(whole) == heard(stopped)
    fit(system_on(alone, tokens, 0, 1, -1))
    first_epoch = [name for rank in heard(alone) for epoch, ids in rank for name in ids if epoch == 0]
    assert sorted(first_epoch) == [f"cut-{number:04d}" for number in range(NUM_CUTS)]
