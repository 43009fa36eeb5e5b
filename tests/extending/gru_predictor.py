"""Walk "A predictor" of docs/extending.md: a GRU."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from kdasr.common.ranges import at_least
from kdasr.common.special_pieces import BLANK_ID
from kdasr.models.predictors.base import Predictor, PredictorConfig

# Shapes: B utterances or hypotheses, S pieces, H pieces before, D width.


@dataclass
class GruConfig(PredictorConfig):
    """One GRU over all that was said."""

    type: str = "toy-gru"
    width: Annotated[int, at_least(1)] = 12

    @property
    def output_dim(self) -> int:
        return self.width

    def build(self, vocab_size: int) -> "GruPredictor":
        return GruPredictor(self.width, vocab_size)


class GruState(NamedTuple):
    """What each hypothesis has heard."""

    hidden_BD: Tensor


class GruPredictor(Predictor):
    """An embedding, a GRU, and nothing at the start."""

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.cell = nn.GRUCell(width, width)

    def start_state(self, batch_size: int, device: torch.device | str | None = None) -> GruState:
        return GruState(self.embedding.weight.new_zeros(batch_size, self.cell.hidden_size, device=device))

    def advance(self, state: GruState, pieces_B: Tensor) -> GruState:
        return GruState(self.cell(self.embedding(pieces_B), state.hidden_BD))

    def predict(self, state: GruState) -> Tensor:
        return state.hidden_BD

    def forward(self, tokens_BS: Tensor, history_BH: Tensor | None = None) -> Tensor:
        state = self.start_state(len(tokens_BS), tokens_BS.device)
        if history_BH is not None:
            for pieces_B in history_BH.unbind(1):
                later = self.advance(state, pieces_B.clamp(min=BLANK_ID))
                said_B1 = (pieces_B > BLANK_ID).unsqueeze(1)
                state = GruState(torch.where(said_B1, later.hidden_BD, state.hidden_BD))
        predicted = [self.predict(state)]
        for pieces_B in tokens_BS.unbind(1):
            state = self.advance(state, pieces_B)
            predicted.append(self.predict(state))
        return torch.stack(predicted, dim=1)
