"""Recurrent prediction network (Graves 2012), as NeMo's `RNNTDecoder` has it."""

# Shapes: B utterances or hypotheses, S pieces, H pieces before, L layers, D width.

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from kdasr.common.ranges import LARGEST_SIZE, MOST_LAYERS, between
from kdasr.common.special_pieces import BLANK_ID
from kdasr.models.predictors.base import Predictor, PredictorConfig
from kdasr.nn.dropout import Dropout
from kdasr.nn.streaming import map_states


@dataclass
class LstmConfig(PredictorConfig):
    """An embedding and LSTM layers: it remembers all that was said. It has no export."""

    type: str = "lstm"
    dim: Annotated[int, between(1, LARGEST_SIZE)] = 320
    """Width of the embedding of pieces, and of each layer."""
    num_layers: Annotated[int, between(1, MOST_LAYERS)] = 1
    """LSTM layers."""
    dropout: Annotated[float, between(0, 1, below=True)] = 0.1
    """After each layer."""

    @property
    def output_dim(self) -> int:
        """Width of what it predicts."""
        return self.dim

    def build(self, vocab_size: int) -> "LstmPredictor":
        """A freshly initialized predictor."""
        return LstmPredictor(self, vocab_size)


class LstmState(NamedTuple):
    """What each hypothesis has heard."""

    hidden_BLD: Tensor
    cell_BLD: Tensor


class LstmPredictor(Predictor):
    """An embedding and LSTM layers. A blank, which stands for the start alone, embeds to zero."""

    def __init__(self, config: LstmConfig, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, config.dim, padding_idx=BLANK_ID)
        between_layers = config.dropout if config.num_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.dim, config.dim, config.num_layers, batch_first=True, dropout=between_layers
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, tokens_BS: Tensor, history_BH: Tensor | None = None) -> Tensor:
        """See `Predictor.forward`. A history without a blank begins as a new utterance does."""
        state = self.start_state(tokens_BS.shape[0], tokens_BS.device)
        if history_BH is not None:
            for pieces_B in history_BH.unbind(1):
                state = _chosen(pieces_B > BLANK_ID, self.advance(state, pieces_B.clamp(min=0)), state)
        predicted_BSD = self.predict(state).unsqueeze(1)
        if tokens_BS.shape[1]:
            later_BSD, _ = self._run(tokens_BS, state)
            predicted_BSD = torch.cat([predicted_BSD, later_BSD], dim=1)
        return self.dropout(predicted_BSD)

    def start_state(self, batch_size: int, device: torch.device | str | None = None) -> LstmState:
        """The state after the blank at the start. See `Predictor.start_state`."""
        device = device or self.embedding.weight.device
        blank_11 = torch.full((1, 1), BLANK_ID, device=device)
        _, state = self._run(blank_11, None)
        return map_states(lambda tensor: tensor.expand(batch_size, -1, -1), state)

    def advance(self, state: LstmState, pieces_B: Tensor) -> LstmState:
        """See `Predictor.advance`."""
        return self._run(pieces_B.unsqueeze(1), state)[1]

    def predict(self, state: LstmState) -> Tensor:
        """The last layer's output. See `Predictor.predict`."""
        return state.hidden_BLD[:, -1]

    def _run(self, tokens_BS: Tensor, state: LstmState | None) -> tuple[Tensor, LstmState]:
        """The last layer's outputs (B, S, D), and the state after them."""
        before = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)
        output_BSD, (hidden_LBD, cell_LBD) = self.lstm(self.embedding(tokens_BS), before)
        return output_BSD, LstmState(hidden_LBD.transpose(0, 1), cell_LBD.transpose(0, 1))


def _chosen(first_B: Tensor, first: LstmState, second: LstmState) -> LstmState:
    """`first` where `first_B` is true, else `second`."""
    mask_B11 = first_B[:, None, None]
    return map_states(lambda one, other: torch.where(mask_B11, one, other), first, second)
