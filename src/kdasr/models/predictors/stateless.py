"""Stateless prediction network."""

# Shapes: B utterances, S pieces, K pieces of context, H pieces before, D width.

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.ranges import LARGEST_SIZE, between
from kdasr.common.special_pieces import NO_PIECE
from kdasr.models.predictors.base import LastPieces, Predictor, PredictorConfig, WindowPredictor
from kdasr.nn.linear import Linear


@dataclass
class StatelessConfig(PredictorConfig):
    """A stateless predictor (Ghodsi et al. 2020): an embedding and a short convolution over pieces."""

    type: str = "stateless"
    dim: Annotated[int, between(1, LARGEST_SIZE)] = 128
    """Width of the embedding of pieces."""
    context_size: Annotated[int, between(1, LARGEST_SIZE)] = 2
    """Pieces that the predictor sees: it has no memory beyond them."""
    context_noise: Annotated[float, between(0, 1, below=True)] = 0.0
    """Share of the context's pieces that training replaces by random ones; helps where text is scarce."""

    @property
    def output_dim(self) -> int:
        """Width of what it predicts."""
        return self.dim

    def build(self, vocab_size: int) -> "StatelessPredictor":
        """A freshly initialized predictor."""
        return StatelessPredictor(vocab_size, self.dim, self.context_size, self.context_noise)


class StatelessPredictor(WindowPredictor, Predictor):
    """An embedding of the last K pieces and one layer over them (Ghodsi et al. 2020).

    The start is K - 1 times -1, then blank, in training as in decoding; sherpa-onnx uses the same.

    In training a share `context_noise` of the pieces in the context is replaced by random ones. A transducer
    trained on little text otherwise trusts its own history so much that one wrong piece derails the rest of
    the utterance; it is the piece-level form of the noise on decoder inputs of Xie et al. 2017.
    """

    context_size: int

    def __init__(self, vocab_size: int, dim: int, context_size: int, context_noise: float = 0.0) -> None:
        super().__init__()
        self.context_size = context_size
        self.context_noise = context_noise
        self.embedding = nn.Embedding(vocab_size, dim)
        self.combine = Linear(context_size * dim, dim)

    def forward(self, tokens_BS: Tensor, history_BH: Tensor | None = None) -> Tensor:
        """See `Predictor.forward`."""
        start_BK = self.start_state(tokens_BS.shape[0], tokens_BS.device).pieces_BK
        if history_BH is not None:
            # A history that is shorter than the context follows nothing.
            before_BK = torch.full_like(start_BK, NO_PIECE)
            start_BK = torch.cat([before_BK, history_BH], dim=1)[:, -self.context_size :]
        embedded_BPD = self._embed(torch.cat([start_BK, self._noisy(tokens_BS)], dim=1))
        num_outputs = tokens_BS.shape[1] + 1
        windows = [embedded_BPD[:, k : k + num_outputs] for k in range(self.context_size)]
        return functional.relu(self.combine(torch.cat(windows, dim=-1)))

    def predict(self, state: LastPieces) -> Tensor:
        """See `Predictor.predict`."""
        return functional.relu(self.combine(self._embed(state.pieces_BK).flatten(1)))

    def _noisy(self, tokens_BS: Tensor) -> Tensor:
        if not self.training or self.context_noise == 0.0:
            return tokens_BS
        replaced_BS = torch.rand(tokens_BS.shape, device=tokens_BS.device) < self.context_noise
        random_BS = torch.randint_like(tokens_BS, 1, self.embedding.num_embeddings)
        return torch.where(replaced_BS, random_BS, tokens_BS)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)
