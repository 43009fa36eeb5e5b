"""Language models through the trainer that transducers go through."""

import json
import os
import signal
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import fit, trainer_config

from kdasr.checkpoint import load_checkpoint
from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import StepInput
from kdasr.language_model.loader import TextBatch, TextLoader, valid_text_batches
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel
from kdasr.language_model.module import LanguageModelObjective, validate_language_model
from kdasr.language_model.text import EncodedText, TextSource
from kdasr.nn.context import Context
from kdasr.testing import random_text
from kdasr.training.devices import make_fabric
from kdasr.training.interrupt import TrainingInterrupted
from kdasr.training.module import TrainingModule
from kdasr.training.system import System

SENTENCES = [random_text(5, seed) for seed in range(20)]
LOSS = {"nll": 1.0}


class InterruptedLoader(TextLoader):
    """Asks for a stop while it makes batch number `at`."""

    at = -1

    def __next__(self) -> TextBatch:
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGINT)
        self.at -= 1
        return super().__next__()


def encode(tokenizer: Tokenizer, sentences: list[str]) -> EncodedText:
    return EncodedText([TextSource("text", sentences)], tokenizer, 100)


def small_model(tokenizer: Tokenizer, dropout: float = 0.0) -> TransformerLanguageModel:
    torch.manual_seed(1)
    config = LanguageModelConfig(tokenizer.vocab_size, 2, 32, 2, 64, dropout=dropout, context=40)
    return TransformerLanguageModel(config)


def lm_system(exp_dir: Path, tokenizer: Tokenizer, steps: int = 6, interrupt_at: int = -1) -> System:
    (exp_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    batches = InterruptedLoader(encode(tokenizer, SENTENCES), 150, seed=2)
    batches.at = interrupt_at
    dev = valid_text_batches(encode(tokenizer, SENTENCES[:7]), 100)
    return System(
        name="lm",
        exp_dir=exp_dir,
        seed=2,
        contexts=[Context.full()],
        stages=[StageConfig(name="only", num_steps=steps, loss_weights=dict(LOSS))],
        config=trainer_config(),
        model=small_model(tokenizer, dropout=0.2),
        objective=LanguageModelObjective(),
        tokenizer=tokenizer,
        train_batches=batches,
        valid_batches=lambda: dev,
        validate=validate_language_model,
    )


def rows(exp_dir: Path, split: str) -> list[dict[str, Any]]:
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, tokenizer: Tokenizer) -> None:
    fit(lm_system(tmp_path / "whole", tokenizer))
    with pytest.raises(TrainingInterrupted):
        fit(lm_system(tmp_path / "parts", tokenizer, interrupt_at=3))
    assert load_checkpoint(tmp_path / "parts/checkpoints/last.pt")["train_steps"] == 4
    fit(lm_system(tmp_path / "parts", tokenizer))
    one, other = (load_checkpoint(tmp_path / name / "checkpoints/last.pt") for name in ("whole", "parts"))
    assert one["train_steps"] == other["train_steps"] == 6
    for name, tensor in one["model"].items():
        assert torch.equal(tensor, other["model"][name]), name
    for split in ("train", "valid"):
        kept = [
            [{k: v for k, v in row.items() if "second" not in k} for row in rows(tmp_path / name, split)]
            for name in ("whole", "parts")
        ]
        assert kept[0] == kept[1] and kept[0]


def test_the_best_checkpoint_is_that_of_the_lowest_perplexity(tmp_path: Path, tokenizer: Tokenizer) -> None:
    system = lm_system(tmp_path, tokenizer, steps=9)
    system.config = replace(system.config, validate_every=1)
    system.config.optim.learning_rate = 0.3  # too much: it does not get better all the way
    fit(system)
    found = rows(tmp_path, "valid")
    assert len(found) == 9
    best = min(found, key=lambda row: row["ppl"])
    assert load_checkpoint(tmp_path / "checkpoints/best.pt")["train_steps"] == best["step"] < 9
    assert all(row["ppl"] == pytest.approx(exp(row["terms"]["nll"])) for row in found)
    assert all("wer" not in row for row in found)


def test_bf16_stays_close(tmp_path: Path, tokenizer: Tokenizer) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        system = lm_system(tmp_path / precision, tokenizer)
        fit(replace(system, config=replace(system.config, precision=precision)))
        losses.append([row["total"] for row in rows(tmp_path / precision, "train")])
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], abs=0.02)


def test_a_small_model_learns_twenty_sentences_by_heart(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Twenty sentences that are all as likely: ln 20 nats each is the least that any model can reach."""
    system = lm_system(tmp_path, tokenizer, steps=150)
    system = replace(
        system,
        model=small_model(tokenizer),
        train_batches=TextLoader(encode(tokenizer, SENTENCES), 10000, seed=0),
        config=trainer_config(validate_every=150, log_every=1),
    )
    system.config.optim.learning_rate = 1e-2
    fit(system)
    predictions = sum(len(tokenizer.encode(sentence)) + 1 for sentence in SENTENCES)
    least = 20 * log(20) / predictions
    losses = [row["total"] for row in rows(tmp_path, "train")]
    assert losses[0] == pytest.approx(log(tokenizer.vocab_size - 2), abs=0.3)
    assert least - 1e-3 < losses[-1] < 1.2 * least


def perplexities(
    model: TransformerLanguageModel, text: EncodedText, tokenizer: Tokenizer
) -> dict[str, float]:
    fabric = make_fabric(trainer_config())
    module = TrainingModule(model, LanguageModelObjective())
    batches = valid_text_batches(text, 60)
    assert len(batches) > 3
    found = validate_language_model(fabric, module, batches, tokenizer, Context.full(), LOSS)
    assert found is not None and found.criterion == found.scores["ppl"]
    return found.scores


def test_a_uniform_model_is_as_perplexed_as_it_has_classes(tokenizer: Tokenizer) -> None:
    model = small_model(tokenizer)
    with torch.no_grad():
        model.embedding.weight.zero_()
    found = perplexities(model, encode(tokenizer, SENTENCES), tokenizer)
    classes = tokenizer.vocab_size - 2  # blank and <unk> are none
    assert found["ppl"] == pytest.approx(classes, rel=1e-5)
    # 20 sentences of 5 words: 120 words and ends, as SRILM counts.
    predictions = sum(len(tokenizer.encode(sentence)) + 1 for sentence in SENTENCES)
    assert found["word_ppl"] == pytest.approx(classes ** (predictions / 120), rel=1e-4)


def test_perplexity_does_not_depend_on_the_batches(tokenizer: Tokenizer) -> None:
    model = small_model(tokenizer, dropout=0.5)
    model.embedding.weight.data.mul_(30)
    sentences = [random_text(1 + seed % 9, seed) for seed in range(20)]
    found = perplexities(model, encode(tokenizer, sentences), tokenizer)
    model.eval().requires_grad_(False)
    total, predictions = 0.0, 0
    for sentence in sentences:
        pieces = tokenizer.encode(sentence)
        total += float(model.log_probs(torch.tensor([pieces]), torch.tensor([len(pieces)])))
        predictions += len(pieces) + 1
    assert found["ppl"] == pytest.approx(exp(-total / predictions), rel=1e-4)


def test_accumulated_batches_are_one_joint_batch(tokenizer: Tokenizer) -> None:
    """Two batches with joint denominators have the gradient of all their predictions together."""
    model, objective = small_model(tokenizer), LanguageModelObjective()
    sentences = [random_text(1 + seed, seed) for seed in range(6)]
    whole = valid_text_batches(encode(tokenizer, sentences), 10**6)
    parts = valid_text_batches(encode(tokenizer, sentences), 60)
    assert len(whole) == 1 < len(parts)
    gradients = []
    for batches in (whole, parts):
        model.zero_grad()
        joint = TrainingModule(model, objective).count(batches)
        for batch in batches:
            inputs = StepInput(batch, loss_weights=LOSS, context=Context.full(), step=0, denominators=joint)
            losses = objective(model, inputs)
            losses.total.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
