"""Small Zipformer2 encoders for tests."""

import torch

from kdasr.models.encoders.zipformer2 import Zipformer2Config
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder


def small_config(**changes: object) -> Zipformer2Config:
    sizes = {
        "num_encoder_layers": [1, 2, 1],
        "downsampling_factor": [1, 2, 4],
        "encoder_dim": [8, 12, 10],
        "encoder_unmasked_dim": [8, 8, 6],
        "feedforward_dim": [16, 24, 16],
        "num_heads": [2, 3, 2],
        "query_head_dim": [4],
        "pos_head_dim": [2],
        "value_head_dim": [3],
        "pos_dim": 6,
        "cnn_module_kernel": [7, 5, 3],
        "causal": True,
    }
    return Zipformer2Config(**{**sizes, **changes})  # type: ignore[arg-type]


def small_encoder(**changes: object) -> Zipformer2Encoder:
    """Random weights, all far from their initial values: at those, layers do almost nothing."""
    torch.manual_seed(5)
    encoder = small_config(**changes).build(80).double().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 if parameter.ndim < 4 else 0.02)
    return encoder
