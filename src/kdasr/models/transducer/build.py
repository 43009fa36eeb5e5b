"""From a checked configuration to a model."""

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig


def build_transducer(config: TransducerConfig) -> Transducer:
    """A freshly initialized model; seed torch first for a reproducible one.

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
    check_options(config, "model")
    if config.vocab_size < 1:
        raise UserError(f"model.vocab_size is {config.vocab_size}; it must be at least 1")
    config.encoder.check(config.num_features)
