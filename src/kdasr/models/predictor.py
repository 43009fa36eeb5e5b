"""Stateless prediction network."""

# Shapes: B utterances, S pieces, K pieces of context, H pieces before, D width.

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.special_pieces import BLANK_ID, NO_PIECE
from kdasr.nn.linear import Linear


def start_context(batch_size: int, context_size: int, device: torch.device | str | None = None) -> Tensor:
    """The last K pieces (B, K) before any piece: a blank, and nothing before it."""
    context_BK = torch.full((batch_size, context_size), NO_PIECE, dtype=torch.int64, device=device)
    context_BK[:, -1] = BLANK_ID
    return context_BK


class StatelessPredictor(nn.Module):
    """An embedding of the last K pieces and one layer over them (Ghodsi et al. 2020).

    The start context is K - 1 times -1, then blank, in training as in decoding; sherpa-onnx uses the
    same.

    In training a share `context_noise` of the pieces in the context is replaced by random ones. A transducer
    trained on little text otherwise trusts its own history so much that one wrong piece derails the rest of
    the utterance; it is the piece-level form of the noise on decoder inputs of Xie et al. 2017.
    """

    def __init__(self, vocab_size: int, dim: int, context_size: int, context_noise: float = 0.0) -> None:
        super().__init__()
        self.context_size = context_size
        self.context_noise = context_noise
        self.embedding = nn.Embedding(vocab_size, dim)
        self.combine = Linear(context_size * dim, dim)

    def start_context(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The context (B, K) before any piece."""
        return start_context(batch_size, self.context_size, device)

    def forward(self, tokens_BS: Tensor, history_BH: Tensor | None = None) -> Tensor:
        """Predict before and after each piece: (B, S) to (B, S + 1, D).

        `history_BH`: pieces before the first one, oldest first; None: those of `start_context`.
        """
        start_BK = self.start_context(tokens_BS.shape[0], tokens_BS.device)
        if history_BH is not None:
            # A history that is shorter than the context follows nothing.
            before_BK = torch.full_like(start_BK, NO_PIECE)
            start_BK = torch.cat([before_BK, history_BH], dim=1)[:, -self.context_size :]
        embedded_BPD = self._embed(torch.cat([start_BK, self._noisy(tokens_BS)], dim=1))
        num_outputs = tokens_BS.shape[1] + 1
        windows = [embedded_BPD[:, k : k + num_outputs] for k in range(self.context_size)]
        return functional.relu(self.combine(torch.cat(windows, dim=-1)))

    def step(self, context_BK: Tensor) -> Tensor:
        """Predict after the last K pieces of each stream, oldest first: (B, K) to (B, D)."""
        return functional.relu(self.combine(self._embed(context_BK).flatten(1)))

    def _noisy(self, tokens_BS: Tensor) -> Tensor:
        if not self.training or self.context_noise == 0.0:
            return tokens_BS
        replaced_BS = torch.rand(tokens_BS.shape, device=tokens_BS.device) < self.context_noise
        random_BS = torch.randint_like(tokens_BS, 1, self.embedding.num_embeddings)
        return torch.where(replaced_BS, random_BS, tokens_BS)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)
