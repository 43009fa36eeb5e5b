"""From a checked configuration to a model."""

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.models.transducer.config import TransducerConfig
from kdasr.models.transducer.model import Transducer


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
    encoder = config.encoder
    check_options(config, "model")
    if config.vocab_size < 1:
        raise UserError(f"model.vocab_size is {config.vocab_size}; it must be at least 1")
    if encoder.dim % (2 * encoder.num_heads):
        raise UserError(
            f"model.encoder.dim is {encoder.dim}; it must be a multiple of twice model.encoder.num_heads "
            f"({encoder.num_heads}), for heads of an even width"
        )
    if encoder.conv_kernel % 2 == 0:
        raise UserError(f"model.encoder.conv_kernel is {encoder.conv_kernel}; it must be odd")
