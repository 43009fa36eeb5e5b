"""Writes tests/interop/nemo_golden.npz: a tiny FastConformer transducer of transformers; what it computes.

NeMo itself is not needed: `ParakeetForRNNT` and `ParakeetFeatureExtractor` of transformers are another
implementation of the same model, into which transformers converts NeMo's checkpoints. The weights are random;
their names are NeMo's here. Run it with transformers 5.24 and librosa beside torch:

    python tools/write_nemo_golden.py
"""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import ParakeetEncoderConfig, ParakeetFeatureExtractor, ParakeetForRNNT, ParakeetRNNTConfig

OUT = Path(__file__).parents[1] / "tests" / "interop" / "nemo_golden.npz"
VOCAB, WIDTH = 9, 12
NAMES = {
    r"^encoder\.subsampling\.layers": "encoder.pre_encode.conv",
    r"^encoder\.subsampling\.linear": "encoder.pre_encode.out",
    r"\.conv\.norm\.": ".conv.batch_norm.",
    r"\.([qkv])_proj\.": r".linear_\1.",
    r"o_proj\.": "linear_out.",
    r"relative_k_proj": "linear_pos",
    r"bias_([uv])$": r"pos_bias_\1",
    r"^decoder\.embedding": "decoder.prediction.embed",
    r"^decoder\.lstm": "decoder.prediction.dec_rnn.lstm",
    r"^encoder_projector": "joint.enc",
    r"^decoder\.decoder_projector": "joint.pred",
    r"^joint\.head": "joint.joint_net.2",
}


def nemo_name(name: str) -> str:
    """The name that NeMo gives to a weight of transformers'."""
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def make_model() -> ParakeetForRNNT:
    """Random weights, of a size that shows in every output."""
    encoder = ParakeetEncoderConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        conv_kernel_size=5,
        subsampling_conv_channels=4,
        scale_input=True,
        layerdrop=0.0,
    )
    config = ParakeetRNNTConfig(
        vocab_size=VOCAB + 1,
        decoder_hidden_size=WIDTH,
        num_decoder_layers=2,
        blank_token_id=VOCAB,
        encoder_config=encoder,
    )
    torch.manual_seed(0)
    model = ParakeetForRNNT(config).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn_like(value)
                shift = 1.0 if "norm" in name and name.endswith(("weight", "running_var")) else 0.0
                drawn = noise.abs() * 0.3 + shift if shift else 0.3 * noise
                value.copy_(drawn.half())  # written as such
        model.decoder.embedding.weight[VOCAB] = 0.0  # as NeMo's padding has it
    return model


@torch.no_grad()
def main() -> None:
    """Make and write everything."""
    model, extractor = make_model(), ParakeetFeatureExtractor()
    waves = [0.1 * np.random.default_rng(seed).standard_normal(n) for seed, n in ((1, 8150), (2, 4891))]
    heard = extractor([wave.astype(np.float32) for wave in waves], sampling_rate=16000, return_tensors="pt")
    encoded = model.encoder(heard["input_features"], heard["attention_mask"])
    tokens = torch.tensor([[VOCAB, 3, 8, 3], [VOCAB, 1, 5, 2]])
    predicted = model.decoder(tokens)
    frames = model.encoder_projector(encoded.last_hidden_state)
    logits = model.joint(predicted[:, None], frames[:, :, None])
    weights = model.state_dict().items()
    state = {f"weight:{nemo_name(name)}": v.half() if v.is_floating_point() else v for name, v in weights}
    results = {
        "features": heard["input_features"],
        "feature_lens": heard["attention_mask"].sum(1),
        "encoded": encoded.last_hidden_state,
        "encoded_lens": encoded.attention_mask.sum(1),
        "tokens": tokens[:, 1:],
        "logits": logits,
    }
    np.savez_compressed(OUT, **{name: value.numpy() for name, value in {**state, **results}.items()})
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
