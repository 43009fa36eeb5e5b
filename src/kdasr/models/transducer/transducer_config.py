"""Sizes of a transducer. Checkpoints carry this, so that no flag is retyped to decode or export."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import LARGEST_SIZE, between
from kdasr.models.encoders.base import EncoderConfig, Geometry


@dataclass
class PredictorConfig:
    """A stateless predictor (Ghodsi et al. 2020): an embedding and a short convolution over pieces."""

    dim: Annotated[int, between(1, LARGEST_SIZE)] = 128
    """Width of the embedding of pieces."""
    context_size: Annotated[int, between(1, LARGEST_SIZE)] = 2
    """Pieces that the predictor sees: it has no memory beyond them."""
    context_noise: Annotated[float, between(0, 1, below=True)] = 0.0
    """Share of the context's pieces that training replaces by random ones; helps where text is scarce."""


@dataclass
class TransducerConfig:
    """Encoder, predictor, joiner and the heads that only training uses."""

    num_features: Annotated[int, between(1, LARGEST_SIZE)] = 80
    """Mel bins of the features."""
    vocab_size: Annotated[int, between(0, LARGEST_SIZE)] = 0
    """Pieces, blank included; filled in from the tokenizer."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig.kind_of({}, "encoder")())
    """Its `type` says which encoder; each has options of its own."""
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joiner_dim: Annotated[int, between(1, LARGEST_SIZE)] = 128
    """Width in which encoder and predictor are added."""

    @property
    def geometry(self) -> Geometry:
        """Widths and rates of the encoder."""
        return self.encoder.geometry
