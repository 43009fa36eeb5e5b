"""Walk "A decoding method" of docs/extending.md: greedy search that leaves out what it is not sure of."""

from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

from kdasr.decoding.hypothesis import Emission, Hypothesis, settled_emissions
from kdasr.decoding.search import GreedyOptions, GreedySearch, GreedyStreamState

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


@dataclass(frozen=True)
class SureOptions(GreedyOptions):
    """The best piece of every frame, if the model is sure of it."""

    threshold: float = 0.5
    """Smallest confidence of a piece: its probability without the blank's."""


class SureSearch(GreedySearch):
    """Greedy search whose result has only pieces of at least some confidence.

    The predictor hears every piece, so that the pieces that stay are those of greedy search.
    """

    def __init__(self, model: "Transducer", options: SureOptions) -> None:
        super().__init__(model, options)
        self._threshold = options.threshold

    def num_settled(self, state: GreedyStreamState) -> int:
        return len(self._kept(state))

    def best(self, state: GreedyStreamState, start: int = 0, final: bool = False) -> Hypothesis:
        return Hypothesis.of(self._kept(state)[start:])

    def _kept(self, state: GreedyStreamState) -> list[Emission]:
        found = settled_emissions(state.settled, 0)
        return [piece for piece in found if exp(piece.log_confidence) >= self._threshold]
