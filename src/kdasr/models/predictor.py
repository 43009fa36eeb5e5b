"""Stateless prediction network."""

# Shapes: B utterances, S pieces, K pieces of context, D width.

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.linear import Linear

NOTHING = -1
"""An id that embeds to zero: what stands before the blank that starts every utterance."""


class StatelessPredictor(nn.Module):
    """An embedding of the last K pieces and one layer over them (Ghodsi et al. 2020).

    The start context is K - 1 times -1, then blank (id 0), in training as in decoding; sherpa-onnx uses the
    same.
    """

    def __init__(self, vocab_size: int, dim: int, context_size: int) -> None:
        super().__init__()
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim)
        self.combine = Linear(context_size * dim, dim)

    def start_context(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The context (B, K) before any piece."""
        context_BK = torch.full((batch_size, self.context_size), NOTHING, dtype=torch.int64, device=device)
        context_BK[:, -1] = 0
        return context_BK

    def forward(self, tokens_BS: Tensor) -> Tensor:
        """Predict before and after each piece: (B, S) to (B, S + 1, D)."""
        start_BK = self.start_context(tokens_BS.shape[0], tokens_BS.device)
        embedded_BPD = self._embed(torch.cat([start_BK, tokens_BS], dim=1))
        num_outputs = tokens_BS.shape[1] + 1
        windows = [embedded_BPD[:, k : k + num_outputs] for k in range(self.context_size)]
        return functional.relu(self.combine(torch.cat(windows, dim=-1)))

    def step(self, context_BK: Tensor) -> Tensor:
        """Predict after the last K pieces of each stream, oldest first: (B, K) to (B, D)."""
        return functional.relu(self.combine(self._embed(context_BK).flatten(1)))

    def _embed(self, ids: Tensor) -> Tensor:
        return self.embedding(ids.clamp(min=0)) * (ids >= 0).unsqueeze(-1)
