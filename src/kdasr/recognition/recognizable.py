"""What a recognizer is made of."""

from typing import NamedTuple, Protocol

from kdasr.common.calibration import Calibration
from kdasr.data.tokenizer import Tokenizer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context


class Recognizable(Protocol):
    """A `Bundle`, or `Parts`."""

    @property
    def model(self) -> Transducer: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def context(self) -> Context: ...
    @property
    def calibration(self) -> Calibration | None: ...


class Parts(NamedTuple):
    """A model that does not come from an experiment folder."""

    model: Transducer
    tokenizer: Tokenizer
    context: Context
    calibration: Calibration | None = None
