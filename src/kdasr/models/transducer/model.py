"""The transducer: encoder, predictor, joiner, and the heads that only training uses."""

# Shapes: B utterances or streams, T frames (features or encoded), F features, W feature frames of a window,
# C frames of a chunk, S pieces, D width.

from typing import NamedTuple

from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.models.encoders.base import EncoderOutput, EncoderState, Geometry, StepOutput
from kdasr.models.joiner import Joiner
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.nn.linear import Linear


class TransducerOutput(NamedTuple):
    """Everything that the losses need of one batch."""

    encoded_BTD: Tensor
    lens_B: Tensor
    """Encoder frames, int64, on the CPU."""
    hidden: list[Tensor]
    """Output of every encoder layer."""
    predicted_BSD: Tensor
    """Predictions before and after each piece, (B, S + 1, D)."""


class Transducer(nn.Module):
    """A transducer (Graves 2012) with the encoder and the predictor that the configuration names.

    Teacher and student are this class under different contexts. Build it with `build_transducer`, which
    checks the configuration.
    """

    def __init__(self, config: TransducerConfig) -> None:
        super().__init__()
        self.config = config
        encoder_dim, predictor_dim = config.geometry.dim, config.predictor.output_dim
        self.encoder = config.encoder.build(config.num_features)
        self.predictor = config.predictor.build(config.vocab_size)
        self.joiner = Joiner(encoder_dim, predictor_dim, config.joiner_dim, config.vocab_size)
        self.joiner.activation = config.joiner_activation
        self.simple_am = Linear(encoder_dim, config.vocab_size)
        self.simple_lm = Linear(predictor_dim, config.vocab_size)
        self.ctc_head = Linear(encoder_dim, config.vocab_size)

    @property
    def geometry(self) -> Geometry:
        """Widths and rates of the encoder."""
        return self.encoder.geometry

    @property
    def num_inference_params(self) -> int:
        """Parameters of encoder, predictor and joiner; the other heads are for training only."""
        parts = (self.encoder, self.predictor, self.joiner)
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Set the normalization: mean and standard deviation of each feature over the training data.

        Raises:
            UserError: another number of features than the model's.
        """
        for name, stats_F in (("mean", mean_F), ("std", std_F)):
            if stats_F.shape != (self.config.num_features,):
                raise UserError(
                    f"feature {name} has shape {tuple(stats_F.shape)}; the model takes "
                    f"{self.config.num_features} features"
                )
        self.encoder.set_feature_stats(mean_F, std_F)

    def encode(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances of raw log-mel energies. See `Encoder.forward`."""
        return self.encoder(features_BTF, feature_lens_B, context)

    def encode_chunk(
        self,
        features_BWF: Tensor,
        state: EncoderState,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """Encode one window of each stream. See `Encoder.step`."""
        return self.encoder.step(features_BWF, state, context, feature_lens_B)

    def forward(
        self,
        features_BTF: Tensor,
        feature_lens_B: Tensor,
        tokens_BS: Tensor,
        context: Context,
        history_BH: Tensor | None = None,
    ) -> TransducerOutput:
        """Run encoder and predictor over a batch; the losses call joiner and heads on the result.

        `history_BH`: pieces before each utterance, for the predictor (`Predictor.forward`).
        """
        encoded = self.encode(features_BTF, feature_lens_B, context)
        predicted_BSD = self.predictor(tokens_BS, history_BH)
        return TransducerOutput(encoded.encoded_BTD, encoded.lens_B, encoded.hidden, predicted_BSD)
