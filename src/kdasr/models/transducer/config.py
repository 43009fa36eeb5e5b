"""Sizes of a transducer. Checkpoints carry this, so that no flag is retyped to decode or export."""

from dataclasses import dataclass, field


@dataclass
class EncoderConfig:
    """A conformer (Gulati et al. 2020) on a 4x convolutional front end."""

    num_layers: int = 4
    dim: int = 128
    num_heads: int = 4
    ffn_dim: int = 512
    """Inner width of each of the two half-step feed-forward modules."""
    conv_kernel: int = 15
    """Depthwise kernel, odd; half of it looks back, half ahead within the chunk."""
    subsampling_channels: int = 32
    dropout: float = 0.1


@dataclass
class PredictorConfig:
    """A stateless predictor (Ghodsi et al. 2020): an embedding and a short convolution over pieces."""

    dim: int = 128
    context_size: int = 2
    context_noise: float = 0.0
    """Share of the context's pieces that training replaces by random ones; helps where text is scarce."""


@dataclass
class TransducerConfig:
    """Encoder, predictor, joiner and the heads that only training uses."""

    num_features: int = 80
    vocab_size: int = 0
    """Pieces, blank included; filled in from the tokenizer."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner_dim: int = 128
