"""What the mutated files belong to: a corpus of tones, its data folder, a small system and its export."""

import json
import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PART = "dev-clean"
TRAIN = "train-clean-100"
RECIPE = """\
# A recipe with what recipes have: numbers, lists, texts, nested sections.
seed: 3
data:
  dir: data/tiny
  train_parts: [train-clean-100]
  dev_parts: [dev-clean]
  vocab_size: 24
  max_duration: 40.0
  num_buckets: 2
  speed_perturbation: [0.9, 1.0]
  join: {enabled: true, max_utterances: 2, max_seconds: 10.0}
  gain: {probability: 0.3}
model:
  encoder: {num_layers: 2, dim: 32, num_heads: 2, ffn_dim: 64, conv_kernel: 7, dropout: 0.0}
  predictor: {dim: 32}
  joiner_dim: 32
training:
  accelerator: cpu
  log_every: 5
  optim: {learning_rate: 2.0e-3, warmup_steps: 5, betas: [0.9, 0.98]}
contexts: [{left: 16, chunk: 8}]
objective: {teacher: teacher}
stages:
  - {name: hidden, num_steps: 10, loss_weights: {rnnt: 1.0, ctc: 0.5, hidden_mse: 1.0}}
  - {name: output, num_steps: 10, learning_rate: 1.0e-3, loss_weights: {rnnt: 1.0, ctc: 0.5, output_kl: 0.3}}
"""
PHRASES = "ONE TWO\nTHREE\t2.5\n\nFOUR FIVE SIX\t1\nSEVEN\t0.75\nNINE TEN\t10\n"


class Base(NamedTuple):
    """Where everything is."""

    root: Path

    @property
    def corpus(self) -> Path:
        """In LibriSpeech's layout, with alignments in the chapters."""
        return self.root / "corpus"

    @property
    def data(self) -> Path:
        """What `kdasr prepare` made of the corpus."""
        return self.root / "data"

    @property
    def exp(self) -> Path:
        """A system with random weights."""
        return self.root / "exp"

    @property
    def bundle(self) -> Path:
        """Its export."""
        return self.root / "export"

    @property
    def chapter(self) -> Path:
        """The folder of the corpus in which files are mutated."""
        return self.corpus / PART / "200" / "1"


def write_base(root: Path) -> Base:
    """Make all of it, in a few seconds; what is whole already is left."""
    base = Base(root)
    if (root / "whole").is_file():
        return base
    from kdasr.checkpoint import load_bundle
    from kdasr.data.prepare import PrepareOptions, prepare_corpus
    from kdasr.export.build import export_bundle
    from kdasr.testing import write_corpus

    root.mkdir(parents=True, exist_ok=True)
    write_corpus(base.corpus, (TRAIN, PART), speakers=1, utterances=3, alignments_dir=root / "alignments")
    _write_wav(base.chapter)
    for file in (root / "alignments").rglob("*.alignment.txt"):
        file.rename(base.corpus / file.relative_to(root / "alignments"))
    prepare_corpus(PrepareOptions(base.corpus, base.data, [TRAIN, PART], speeds=[1.0]))
    _write_system(base.exp)
    export_bundle(load_bundle(base.exp), base.bundle)
    (root / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (root / "phrases.txt").write_text(PHRASES, encoding="utf-8")
    (root / "whole").touch()
    return base


def _write_wav(chapter: Path) -> None:
    """One more utterance, as a wav."""
    from kdasr.testing import SAMPLE_RATE, tone

    samples = (tone(1.25, seed=99) * 32767).astype("<i2")
    with wave.open(str(chapter / "200-1-0003.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    with (chapter / "200-1.trans.txt").open("a", encoding="utf-8") as text:
        text.write("200-1-0003 ONE TWO\n")


def _write_system(folder: Path) -> None:
    import torch

    from kdasr.checkpoint import save_checkpoint
    from kdasr.common.configio import config_to_dict
    from kdasr.testing import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer(folder / "tokens")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():  # so that it says something
        model.joiner.output.bias[0] -= 1.0
    payload: dict[str, Any] = {
        "model_config": config_to_dict(model.config),
        "model": model.state_dict(),
        "context": {"left": 8, "chunk": 4, "right": 0},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "system": "student",
        "train_steps": 7,
    }
    save_checkpoint(folder / "checkpoints" / "last.pt", payload)


def digest(value: Any) -> str:
    """A short name of a value: the same for the same value only."""
    import hashlib

    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
