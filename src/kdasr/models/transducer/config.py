"""Sizes of a transducer. Checkpoints carry this, so that no flag is retyped to decode or export."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import at_least, between
from kdasr.nn.subsampling import MIN_FRAMES


@dataclass
class EncoderConfig:
    """A conformer (Gulati et al. 2020) on a 4x convolutional front end."""

    num_layers: Annotated[int, at_least(1)] = 4
    dim: Annotated[int, at_least(2)] = 128
    num_heads: Annotated[int, at_least(1)] = 4
    ffn_dim: Annotated[int, at_least(1)] = 512
    """Inner width of each of the two half-step feed-forward modules."""
    conv_kernel: Annotated[int, at_least(1)] = 15
    """Depthwise kernel, odd; half of it looks back, half ahead within the chunk."""
    subsampling_channels: Annotated[int, at_least(1)] = 32
    dropout: Annotated[float, between(0, 1, below=True)] = 0.1


@dataclass
class PredictorConfig:
    """A stateless predictor (Ghodsi et al. 2020): an embedding and a short convolution over pieces."""

    dim: Annotated[int, at_least(1)] = 128
    context_size: Annotated[int, at_least(1)] = 2
    context_noise: Annotated[float, between(0, 1, below=True)] = 0.0
    """Share of the context's pieces that training replaces by random ones; helps where text is scarce."""


@dataclass
class TransducerConfig:
    """Encoder, predictor, joiner and the heads that only training uses."""

    num_features: Annotated[int, at_least(MIN_FRAMES)] = 80
    vocab_size: Annotated[int, at_least(0)] = 0
    """Pieces, blank included; filled in from the tokenizer."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner_dim: Annotated[int, at_least(1)] = 128
