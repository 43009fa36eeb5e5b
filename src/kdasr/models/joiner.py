"""Additive joint network."""

import torch
from torch import Tensor, nn

from kdasr.common.special_pieces import BLANK_ID
from kdasr.nn.linear import Linear

TANH, RELU = ACTIVATIONS = ("tanh", "relu")


class Joiner(nn.Module):
    """Projections of encoder and predictor, tanh of their sum, and a linear layer to the vocabulary.

    In the place of tanh NeMo's teachers have relu (`activation`); what trains here has tanh.

    The projections are separate calls, so that the pruned loss and decoding project each frame and each
    context once.
    """

    def __init__(self, encoder_dim: int, predictor_dim: int, joiner_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.activation = TANH
        self.encoder_projection = Linear(encoder_dim, joiner_dim)
        self.predictor_projection = Linear(predictor_dim, joiner_dim)
        self.output = Linear(joiner_dim, vocab_size)

    def penalize_blank(self, penalty: float) -> None:
        """Subtract `penalty` from the blank's logit for good; more than one call adds up."""
        with torch.no_grad():
            self.output.bias[BLANK_ID] -= penalty

    def project_encoder(self, encoded: Tensor) -> Tensor:
        """(..., encoder_dim) to (..., joiner_dim)."""
        return self.encoder_projection(encoded)

    def project_predictor(self, predicted: Tensor) -> Tensor:
        """(..., predictor_dim) to (..., joiner_dim)."""
        return self.predictor_projection(predicted)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits over the vocabulary (unnormalized) of projected inputs that broadcast."""
        both = encoded + predicted
        return self.output(torch.relu(both) if self.activation == RELU else torch.tanh(both))
