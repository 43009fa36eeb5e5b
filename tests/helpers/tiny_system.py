"""A system small enough to train in a test, on random batches; importable by other processes."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdasr.data.batch import Batch
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig, StageConfig
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.testing import tiny_config
from kdasr.training.devices import make_fabric
from kdasr.training.resume import seed_everything
from kdasr.training.system import System
from kdasr.training.trainer import Trainer
from kdasr.training.training_config import OptimConfig, TrainerConfig
from kdasr.training.transducer import validate_transducer

VOCAB = 11
# Children start from a server that has imported everything (from the installed package; it does not see
# this folder) but has run nothing.
processes = multiprocessing.get_context("forkserver")
# Optimizers import torch._dynamo when they are first used, which takes seconds.
processes.set_forkserver_preload(["kdasr.experiment.run", "torch._dynamo", "torch.utils.tensorboard"])
CHUNKED = Context(left=4, chunk=4)
TWO_TERMS = {"rnnt": 1.0, "ctc": 0.5}


class Letters:
    """Stands in for a tokenizer: every piece is a word of its own."""

    vocab_size = VOCAB
    fingerprint = "letters"

    def normalize(self, text: str) -> str:
        return text

    def decode(self, ids: list[int]) -> str:
        return " ".join(chr(ord("a") + index) for index in ids)


def random_batch(seed: int, sizes: tuple[int, ...] = (60, 47, 52)) -> Batch:
    """Utterances of `sizes` feature frames and five or six pieces, with padding that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    lens = torch.tensor(sizes)
    token_lens = torch.randint(5, 7, (len(sizes),), generator=generator)
    tokens = torch.randint(3, VOCAB, (len(sizes), int(token_lens.max())), generator=generator)
    letters = Letters()
    return Batch(
        features_BTF=torch.randn(len(sizes), int(lens.max()), 16, generator=generator) * 2 + 1,
        feature_lens_B=lens,
        tokens_BS=tokens.masked_fill(torch.arange(tokens.shape[1]) >= token_lens[:, None], 0),
        token_lens_B=token_lens,
        ids=[f"utt-{seed}-{index}" for index in range(len(sizes))],
        texts=[letters.decode(row[:count].tolist()) for row, count in zip(tokens, token_lens, strict=True)],
        audio_seconds=float(lens.sum()) / 100,
    )


class RandomBatches:
    """An endless source whose batch number n depends on n only. Can do harm at a given batch."""

    def __init__(
        self,
        first: int = 0,
        *,
        kill_at: int = -1,
        interrupt_at: int = -1,
        bad: Any = (),
        too_short: Any = (),
    ) -> None:
        self.position = first
        self.kill_at = kill_at
        self.interrupt_at = interrupt_at
        self.bad = bad
        """Batches with a feature that is not a number."""
        self.too_short = too_short
        """Batches with an utterance without encoder frames: an infinite loss, a gradient of zero."""

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        number = self.position
        self.position += 1
        if number == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        batch = random_batch(number % 4)
        if number in self.bad:
            batch.features_BTF[1, 0, 0] = float("nan")
        if number in self.too_short:
            batch.feature_lens_B[1] = 3
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def small_config(dim: int = 16, dropout: float = 0.0) -> TransducerConfig:
    """`tiny_config` with another width or with dropout, for few features."""
    config = tiny_config(VOCAB)
    return replace(config, num_features=16, encoder=replace(config.encoder, dim=dim, dropout=dropout))


def small_model(seed: int = 0, dim: int = 16, dropout: float = 0.0) -> Transducer:
    torch.manual_seed(seed)
    return build_transducer(small_config(dim, dropout))


def small_objective(with_teacher: bool = False) -> Objective:
    teacher = TransducerTeacher(small_model(seed=7, dim=12), Context.full()) if with_teacher else None
    torch.manual_seed(3)
    return Objective(ObjectiveConfig(rnnt=RnntConfig(warmup_steps=4)), small_config(), teacher)


def tiny_system(exp_dir: Path, **changes: Any) -> System:
    """A system with six steps and a validation every three; `changes` replace its fields."""
    (exp_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    system = System(
        name="tiny",
        exp_dir=exp_dir,
        seed=5,
        contexts=[Context.full()],
        stages=[StageConfig(name="only", num_steps=6, loss_weights=dict(TWO_TERMS))],
        config=trainer_config(),
        model=small_model(),
        objective=small_objective(),
        tokenizer=Letters(),  # type: ignore[arg-type]
        train_batches=RandomBatches(),
        validate=validate_transducer,
        valid_batches=lambda: [random_batch(100), random_batch(101, (44, 40))],
    )
    return replace(system, **changes)


def trainer_config(**changes: Any) -> TrainerConfig:
    optim = OptimConfig(
        learning_rate=3e-3,
        warmup_steps=2,
        accumulate=changes.pop("accumulate", 1),
        optimizer=changes.pop("optimizer", "adamw"),
    )
    config = TrainerConfig(
        accelerator="cpu", num_threads=1, log_every=2, validate_every=3, keep_last=2, optim=optim
    )
    return replace(config, **changes)


def fit(system: System, until_stage: str | None = None) -> Trainer:
    """Train in this process."""
    fabric = make_fabric(system.config)
    seed_everything(system.seed, rank=fabric.global_rank)
    trainer = Trainer(system, fabric)
    trainer.fit(until_stage)
    return trainer


def two_stage_system(exp_dir: Path, **changes: Any) -> System:
    """All that a resume restores: dropout, contexts, a narrower teacher, two stages, two optimizers."""
    hidden = {"rnnt": 1.0, "ctc": 0.5, "hidden_mse": 1.0}
    return tiny_system(
        exp_dir,
        contexts=[CHUNKED, Context.full(), Context(left=8, chunk=2)],
        stages=[
            StageConfig(name="hidden", num_steps=5, loss_weights=hidden),
            StageConfig(name="output", num_steps=5, loss_weights={"rnnt": 1.0, "output_kl": 0.3}),
        ],
        config=trainer_config(accumulate=2, optimizer="muon"),
        model=small_model(dropout=0.2),
        objective=small_objective(with_teacher=True),
        **changes,
    )
