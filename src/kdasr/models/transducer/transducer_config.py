"""Sizes of a transducer. Checkpoints carry this, so that no flag is retyped to decode or export."""

from dataclasses import dataclass, field
from typing import Annotated

from kdasr.common.ranges import LARGEST_SIZE, OneOf, between
from kdasr.models.encoders.base import EncoderConfig, Geometry
from kdasr.models.joiner import ACTIVATIONS, TANH
from kdasr.models.predictors.base import PredictorConfig


@dataclass
class TransducerConfig:
    """Encoder, predictor, joiner and the heads that only training uses."""

    num_features: Annotated[int, between(1, LARGEST_SIZE)] = 80
    """Mel bins of the features."""
    vocab_size: Annotated[int, between(0, LARGEST_SIZE)] = 0
    """Pieces, blank included; filled in from the tokenizer."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig.kind_of({}, "encoder")())
    """Its `type` says which encoder; each has options of its own."""
    predictor: PredictorConfig = field(default_factory=lambda: PredictorConfig.kind_of({}, "predictor")())
    """Its `type` says which predictor; each has options of its own."""
    joiner_dim: Annotated[int, between(1, LARGEST_SIZE)] = 128
    """Width in which encoder and predictor are added."""
    joiner_activation: Annotated[str, OneOf(*ACTIVATIONS)] = TANH
    """After that sum. `relu` is for teachers of NeMo; what trains has `tanh`."""

    @property
    def geometry(self) -> Geometry:
        """Widths and rates of the encoder."""
        return self.encoder.geometry
