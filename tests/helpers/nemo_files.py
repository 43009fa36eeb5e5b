"""A small `.nemo` file of the golden model, and what transformers computes with its weights."""

import copy
import io
import tarfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
import yaml
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "interop" / "nemo_golden.npz"
TEXTS = ("AB CD", "ABC AB", "CD AB D", "ABC CD")
VOCAB = 9
"""Pieces of NeMo's, without the blank."""

CONFIG: dict[str, Any] = {
    "sample_rate": 16000,
    "target": "nemo.collections.asr.models.rnnt_bpe_models.EncDecRNNTBPEModel",
    "tokenizer": {"dir": None, "type": "bpe", "model_path": "nemo:5ab1_tokenizer.model"},
    "preprocessor": {
        "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
        "sample_rate": 16000,
        "normalize": "per_feature",
        "window_size": 0.025,
        "window_stride": 0.01,
        "window": "hann",
        "features": 80,
        "n_fft": 512,
        "log": True,
        "frame_splicing": 1,
        "dither": 1e-05,
        "pad_to": 0,
        "pad_value": 0.0,
    },
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 80,
        "feat_out": -1,
        "n_layers": 2,
        "d_model": 16,
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 4,
        "causal_downsampling": False,
        "ff_expansion_factor": 2,
        "self_attention_model": "rel_pos",
        "n_heads": 2,
        "att_context_size": [-1, -1],
        "att_context_style": "regular",
        "xscaling": True,
        "untie_biases": True,
        "pos_emb_max_len": 5000,
        "conv_kernel_size": 5,
        "conv_norm_type": "batch_norm",
        "conv_context_size": None,
        "dropout": 0.1,
        "dropout_pre_encoder": 0.1,
        "dropout_emb": 0.0,
        "dropout_att": 0.1,
    },
    "decoder": {
        "_target_": "nemo.collections.asr.modules.RNNTDecoder",
        "normalization_mode": None,
        "random_state_sampling": False,
        "blank_as_pad": True,
        "prednet": {"pred_hidden": 12, "pred_rnn_layers": 2, "t_max": None, "dropout": 0.2},
    },
    "joint": {
        "_target_": "nemo.collections.asr.modules.RNNTJoint",
        "log_softmax": None,
        "jointnet": {"joint_hidden": 12, "activation": "relu", "dropout": 0.2},
    },
}


def golden() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights by NeMo's names, as they are written (float16), and results."""
    with np.load(GOLDEN) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    weights = {name.removeprefix("weight:"): v for name, v in arrays.items() if name.startswith("weight:")}
    return weights, {name: value for name, value in arrays.items() if not name.startswith("weight:")}


def waves() -> list[np.ndarray]:
    """What the results are of."""
    drawn = [0.1 * np.random.default_rng(seed).standard_normal(n) for seed, n in ((1, 8150), (2, 4891))]
    return [wave.astype(np.float32) for wave in drawn]


@cache
def nemo_pieces(vocab_size: int = VOCAB, texts: tuple[str, ...] = TEXTS) -> bytes:
    """A SentencePiece model as NeMo trains them: `<unk>` first, neither begin nor end."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        character_coverage=1.0,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def nemo_members() -> dict[str, Any]:
    """What a `.nemo` file holds, by name; to be changed before it is written."""
    return {
        "config": copy.deepcopy(CONFIG),
        "weights": golden()[0],
        "pieces": nemo_pieces(),
        "more": [],
    }


def spelling(members: dict[str, Any], texts: Sequence[str], vocab_size: int) -> dict[str, Any]:
    """The members of a model with pieces for other texts, random where weights are of pieces."""
    members["pieces"] = nemo_pieces(vocab_size, tuple(texts))
    generator = torch.Generator().manual_seed(0)
    for name in ("decoder.prediction.embed.weight", "joint.joint_net.2.weight", "joint.joint_net.2.bias"):
        width = members["weights"][name].shape[1:]
        members["weights"][name] = torch.randn(vocab_size + 1, *width, generator=generator)
    return members


def write_nemo(path: Path, members: dict[str, Any] | None = None) -> Path:
    """Write a `.nemo` file; `more` are further members, `None` leaves one out."""
    members = members or nemo_members()
    files: dict[str, bytes] = {}
    if members["config"] is not None:
        files["./model_config.yaml"] = yaml.safe_dump(members["config"]).encode()
    if members["weights"] is not None:
        stored = io.BytesIO()
        torch.save(members["weights"], stored)
        files["./model_weights.ckpt"] = stored.getvalue()
    if members["pieces"] is not None:
        files["./5ab1_tokenizer.model"] = members["pieces"]
        files["./5ab1_vocab.txt"] = b"not read"
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for entry in members["more"]:
            archive.addfile(entry, io.BytesIO(b"\0" * entry.size))
    return path
