"""Sizes of a transducer. Checkpoints carry this, so that no flag is retyped to decode or export."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import at_least, between
from kdasr.models.encoders.base import EncoderConfig, Geometry


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

    num_features: Annotated[int, at_least(1)] = 80
    vocab_size: Annotated[int, at_least(0)] = 0
    """Pieces, blank included; filled in from the tokenizer."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig.kind_of({}, "encoder")())
    """Its `type` says which encoder; each has options of its own."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner_dim: Annotated[int, at_least(1)] = 128

    @property
    def geometry(self) -> Geometry:
        """Widths and rates of the encoder."""
        return self.encoder.geometry
