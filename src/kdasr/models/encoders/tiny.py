"""An encoder that runs in milliseconds, for tests."""

from kdasr.models.encoders.conformer import ConformerConfig


def tiny_encoder() -> ConformerConfig:
    """Two layers, 16 wide, no dropout."""
    return ConformerConfig(
        num_layers=2, dim=16, num_heads=2, ffn_dim=32, conv_kernel=5, subsampling_channels=4, dropout=0.0
    )
