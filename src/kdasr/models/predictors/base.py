"""The contract of predictors: what a new one has to give, and all that the rest of the toolkit knows of any.

A predictor is one file beside this one. It holds the options, as a subclass of `PredictorConfig` whose `type`
names it in configurations, and the network, as a subclass of `Predictor`; `kdasr.models.predictors` imports
it.

The law that every predictor has to keep: *piece by piece equals the whole sequence*. `forward` is what trains
and teaches, `advance` and `predict` are what the searches call. Their state is explicit and follows the
contract of streams (`kdasr.nn.streaming`): a search stacks, selects and splits it, hypothesis by hypothesis,
keeps it from chunk to chunk, and looks into it only where `Predictor.context_size` says what it is.
"""

# Shapes: B utterances, streams or hypotheses, S pieces, H pieces before, K pieces of context, D width.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdasr.common.choices import OptionChoice
from kdasr.common.special_pieces import BLANK_ID, NO_PIECE

FIRST_TYPE = "stateless"
"""The predictor of configurations that do not name one: those from before there was a choice."""

PredictorState = Any
"""What a predictor remembers of each hypothesis: a NamedTuple of tensors and of such tuples, where dimension
0 of every tensor is the hypothesis."""


@dataclass
class PredictorConfig(OptionChoice):
    """Options of a predictor. A subclass is a dataclass and a kind of predictor: it sets `type`, adds
    options, and overrides what is below."""

    type: str = FIRST_TYPE
    """Which predictor."""

    @property
    def output_dim(self) -> int:
        """Width of what it predicts."""
        raise NotImplementedError

    def build(self, vocab_size: int) -> "Predictor":
        """A freshly initialized predictor over so many pieces, blank included; seed torch first."""
        raise NotImplementedError


class LastPieces(NamedTuple):
    """The state of a predictor that depends on the last K pieces alone."""

    pieces_BK: Tensor
    """Oldest first, int64; -1 for what stands before the blank at the start."""


class WindowPredictor:
    """The states of a predictor that depends on its last K pieces alone: those pieces."""

    context_size: int

    def start_state(self, batch_size: int, device: torch.device | str | None = None) -> LastPieces:
        """The state of hypotheses without a piece: a blank, and nothing before it."""
        pieces_BK = torch.full((batch_size, self.context_size), NO_PIECE, dtype=torch.int64, device=device)
        pieces_BK[:, -1] = BLANK_ID
        return LastPieces(pieces_BK)

    def advance(self, state: LastPieces, pieces_B: Tensor) -> LastPieces:
        """The state after one more piece of each hypothesis."""
        return LastPieces(torch.cat([state.pieces_BK[:, 1:], pieces_B.unsqueeze(1)], dim=1))


class Predictor(nn.Module, ABC):
    """Pieces so far to a vector that the joiner puts together with a frame. It knows no audio."""

    context_size: int | None = None
    """Pieces that a prediction depends on, the start counted as one; its state is then `LastPieces`. None:
    all that were said."""

    @abstractmethod
    def forward(self, tokens_BS: Tensor, history_BH: Tensor | None = None) -> Tensor:
        """Predict before and after each piece: (B, S) to (B, S + 1, D).

        Args:
            tokens_BS: pieces, padded with any.
            history_BH: pieces before the first one, oldest first. A blank there is the start; -1 is nothing,
                and stands in front only. None: the start.
        """

    @abstractmethod
    def start_state(self, batch_size: int, device: torch.device | str | None = None) -> PredictorState:
        """The state of hypotheses without a piece, on a device (None: that of the weights)."""

    @abstractmethod
    def advance(self, state: PredictorState, pieces_B: Tensor) -> PredictorState:
        """The state after one more piece of each hypothesis, int64, no blanks. `state` is not changed."""

    @abstractmethod
    def predict(self, state: PredictorState) -> Tensor:
        """What `forward` predicts after the pieces of each state: (B, D)."""
