"""From a checked configuration to a model."""

from kdasr.common.errors import UserError
from kdasr.models.transducer.config import TransducerConfig
from kdasr.models.transducer.model import Transducer
from kdasr.nn.subsampling import MIN_FRAMES


def build_transducer(config: TransducerConfig) -> Transducer:
    """A freshly initialised model; seed torch first for a reproducible one.

    Raises:
        UserError: a size that no model can have; the message names the option.
    """
    check_transducer_config(config)
    return Transducer(config)


def check_transducer_config(config: TransducerConfig) -> None:
    """Refuse sizes that the types allow and the model does not.

    Raises:
        UserError: naming the option and its value.
    """
    encoder, predictor = config.encoder, config.predictor
    positive = {
        "vocab_size": config.vocab_size,
        "joiner_dim": config.joiner_dim,
        "encoder.num_layers": encoder.num_layers,
        "encoder.dim": encoder.dim,
        "encoder.num_heads": encoder.num_heads,
        "encoder.ffn_dim": encoder.ffn_dim,
        "encoder.conv_kernel": encoder.conv_kernel,
        "encoder.subsampling_channels": encoder.subsampling_channels,
        "predictor.dim": predictor.dim,
        "predictor.context_size": predictor.context_size,
    }
    for name, value in positive.items():
        if value < 1:
            raise UserError(f"model.{name} is {value}; it must be at least 1")
    if config.num_features < MIN_FRAMES:
        raise UserError(
            f"model.num_features is {config.num_features}; the front end needs at least {MIN_FRAMES}"
        )
    if encoder.dim % (2 * encoder.num_heads):
        raise UserError(
            f"model.encoder.dim is {encoder.dim}; it must be a multiple of twice model.encoder.num_heads "
            f"({encoder.num_heads}), for heads of an even width"
        )
    if encoder.conv_kernel % 2 == 0:
        raise UserError(f"model.encoder.conv_kernel is {encoder.conv_kernel}; it must be odd")
    if not 0.0 <= encoder.dropout < 1.0:
        raise UserError(f"model.encoder.dropout is {encoder.dropout}; it must be in [0, 1)")
    if not 0.0 <= config.predictor.context_noise < 1.0:
        noise = config.predictor.context_noise
        raise UserError(f"model.predictor.context_noise is {noise}; it must be in [0, 1)")
