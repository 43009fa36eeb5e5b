"""Small random students that emit pieces, in experiment folders, and things for them to hear."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import kaldi_native_fbank as knf
import numpy as np
import soundfile
import torch
from lhotse import CutSet, Recording
from numpy.typing import NDArray

from kdasr.bundle import Bundle, load_bundle
from kdasr.checkpoint import save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.recognition.features import whole_features
from kdasr.testing import tiny_config, tiny_tokenizer
from zipformer2_models import small_config

CONTEXT = Context(left=8, chunk=4)


def bursts(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Noise and tones in bursts at 16 kHz: no two stretches alike, loud and silent ones."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16000)) / 16000
    tones = sum(np.sin(2 * np.pi * f * time + p) for f, p in generator.uniform(1, 3, (4, 2)) * [400, 6])
    loudness = np.clip(np.sin(2 * np.pi * generator.uniform(1.5, 3) * time + seed), 0, 1)
    return (0.1 * loudness * (generator.normal(size=len(time)) + tones)).astype(np.float32)


def emitting_model(vocab_size: int, seed: int = 1, num_heads: int = 2) -> Transducer:
    """A random model that emits all kinds of pieces in bursts, and blanks in silence."""
    config = tiny_config(vocab_size)
    config.encoder.num_heads = num_heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_transducer(config).eval()
        model.set_feature_stats(torch.full((80,), -6.0), torch.full((80,), 4.0))
        spread_pieces(model, Context(left=8, chunk=4))
    return model


@torch.no_grad()
def spread_pieces(model: Transducer, context: Context) -> None:
    """Whiten the joiner's hidden units on some audio; then let silence mean blank."""
    size = model.config.vocab_size
    heard, silent = bursts(8.0, seed=99), np.zeros(32000, dtype=np.float32)
    hidden = []
    for wave_N in (heard, silent):
        # Whitening blows up the smallest difference: weights that do not depend on how we compute features.
        with patch("kdasr.recognition.features.log_mel", client_log_mel):
            features_BTF = torch.from_numpy(whole_features(16000, wave_N, model.geometry))[None]
        encoded = model.encode(features_BTF, torch.tensor([features_BTF.shape[1]]), context).encoded_BTD
        predicted = model.joiner.project_predictor(model.predictor(torch.randint(0, size, (1, 200))))
        hidden.append(
            torch.tanh(model.joiner.project_encoder(encoded)[0, :, None] + predicted[0]).flatten(0, 1)
        )
    values, vectors = torch.linalg.eigh(torch.cov(hidden[0].T))
    whiten = (vectors / values.clamp(min=1e-4).sqrt()).T
    weight = torch.randn(size, len(values)) @ whiten
    # Blank looks for what sets silence apart from the rest.
    apart = whiten @ (hidden[1].mean(dim=0) - hidden[0].mean(dim=0))
    weight[0] = 6.0 * (apart / apart.norm()) @ whiten
    model.joiner.output.weight.copy_(weight)
    model.joiner.output.bias.copy_(-(weight @ hidden[0].mean(dim=0)))
    model.joiner.output.bias[0] += 1.5
    model.joiner.output.bias[1:3] -= 50.0  # neither <sos/eos> nor <unk>


def write_cuts(folder: Path, waves: list[NDArray[np.float32]]) -> Path:
    """A manifest of recordings `0.wav`, `1.wav`, ..., without transcripts."""
    cuts = []
    for index, wave_N in enumerate(waves):
        soundfile.write(folder / f"{index}.wav", wave_N, 16000, subtype="FLOAT")
        cuts.append(Recording.from_file(folder / f"{index}.wav").to_cut().with_id(f"cut-{index}"))
    CutSet.from_cuts(cuts).to_file(folder / "cuts.jsonl.gz")
    return folder / "cuts.jsonl.gz"


def save_student(folder: Path, context: Context, seed: int = 1) -> Bundle:
    """An experiment folder with an emitting model, and the system in it."""
    return save_system(folder, emitting_model(24, seed), context)


def save_system(folder: Path, model: Transducer, context: Context) -> Bundle:
    """An experiment folder with a model of the pieces of `tiny_tokenizer`, and the system in it."""
    tokenizer = tiny_tokenizer(folder / "tokens")
    payload = {
        "model_config": config_to_dict(model.config),
        "model": model.state_dict(),
        "context": {"left": context.left, "chunk": context.chunk, "right": context.right},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "system": "two-stage",
        "train_steps": 7,
    }
    save_checkpoint(folder / "checkpoints" / "averaged.pt", payload)
    return load_bundle(folder)


_TWO_STACKS = {
    "num_encoder_layers": [1, 1],
    "downsampling_factor": [1, 2],
    "encoder_dim": [8, 12],
    "encoder_unmasked_dim": [8],
    "feedforward_dim": [16, 24],
    "num_heads": [2, 3],
    "cnn_module_kernel": [7, 5],
}


def save_zipformer(folder: Path, context: Context = CONTEXT, **encoder: Any) -> Bundle:
    """An experiment folder with a random model that emits all kinds of pieces."""
    config = TransducerConfig(
        vocab_size=24,
        encoder=small_config(**{**_TWO_STACKS, **encoder}),
        predictor=StatelessConfig(dim=16),
        joiner_dim=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = build_transducer(config).eval()
        with torch.no_grad():
            for parameter in model.encoder.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2 if parameter.ndim < 4 else 0.02)
        spread_pieces(model, context if model.encoder.config.causal else Context.full())
    return save_system(folder, model, context)


def client_log_mel(signals: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """`kdasr.recognition.filter_bank.log_mel`, computed by what sherpa-onnx computes features with."""
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400.0
    frames = []
    for signal in signals:
        fbank = knf.OnlineFbank(options)
        fbank.accept_waveform(16000, signal.tolist())
        frames += [fbank.get_frame(index) for index in range(fbank.num_frames_ready)]
    return np.stack(frames) if frames else np.zeros((0, 80), np.float32)
