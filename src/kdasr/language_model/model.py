"""A causal Transformer language model over the tokenizer's pieces: whole sentences, or piece by piece.

A sentence is `<sos/eos>` (id 1), its pieces, `<sos/eos>` again. Blank (id 0) and `<unk>` (id 2) are no part
of any sentence: they have no probability, and the other classes share all of it.
"""

# Shapes: B sentences, S pieces, T = S + 1 predictions of a sentence (each piece, then the end), N hypotheses,
# W pieces of the window, D width, V pieces of the tokenizer.

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.common.ranges import at_least, between, check_options
from kdasr.nn.causal_attention import CausalSelfAttention, CausalState
from kdasr.nn.dropout import Dropout
from kdasr.nn.feedforward import FeedForward
from kdasr.nn.rotary import Rotation, rotary_tables

END_ID = 1
"""`<sos/eos>`: begins and ends every sentence."""
NO_PIECES = (0, 2)
"""Blank and `<unk>`, in every tokenizer of this toolkit."""


@dataclass
class LanguageModelConfig:
    """Sizes of a language model. Checkpoints carry this."""

    vocab_size: Annotated[int, at_least(0)] = 0
    """Pieces, blank included; filled in from the tokenizer."""
    num_layers: Annotated[int, at_least(1)] = 4
    dim: Annotated[int, at_least(2)] = 256
    num_heads: Annotated[int, at_least(1)] = 4
    ffn_dim: Annotated[int, at_least(1)] = 1024
    dropout: Annotated[float, between(0, 1, below=True)] = 0.1
    context: Annotated[int, at_least(1)] = 128
    """Each layer sees the newest place and those before it, so many in all. What a hypothesis carries
    through a beam search is proportional to it: 8 * num_layers * (context - 1) * dim bytes."""


class LanguageModelState(NamedTuple):
    """What the model remembers of each hypothesis; dimension 0 of every tensor is the hypothesis."""

    layers: tuple[CausalState, ...]
    count_N: Tensor
    """Pieces fed so far, as far as the window remembers them."""


class _Layer(nn.Module):
    """Pre-norm attention and feed-forward (Xiong et al. 2020)."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.dim)
        self.attention = CausalSelfAttention(config.dim, config.num_heads, config.context)
        self.feed_forward_norm = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.ffn_dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), rotation))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))

    def step(
        self, x_ND: Tensor, state: CausalState, visible_NW: Tensor, rotation: Rotation
    ) -> tuple[Tensor, CausalState]:
        y_ND, state = self.attention.step(self.attention_norm(x_ND), state, visible_NW, rotation)
        x_ND = x_ND + y_ND
        return x_ND + self.feed_forward(self.feed_forward_norm(x_ND)), state


class TransformerLanguageModel(nn.Module):
    """Scores sentences; in evaluation mode also a `LanguageModel` for shallow fusion.

    Input and output embeddings are tied (Press and Wolf 2017). Piece by piece equals the whole sentence,
    however long it is: both see the same window in every layer.
    """

    def __init__(self, config: LanguageModelConfig) -> None:
        """
        Raises:
            UserError: a size that no model can have; names the option.
        """
        super().__init__()
        _check(config)
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        # Small, as in GPT-2: with long rows a tied model begins by predicting what it has just heard.
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.output_bias_V = nn.Parameter(torch.zeros(config.vocab_size))
        self.impossible_V: Tensor
        impossible_V = torch.zeros(config.vocab_size, dtype=torch.bool)
        impossible_V[list(NO_PIECES)] = True
        self.register_buffer("impossible_V", impossible_V, persistent=False)

    def forward(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Log-probabilities (B, T) of each piece of some sentences and of their ends; 0 beyond the end.

        Args:
            tokens_BS: pieces without start or end; any valid id in the padding.
            lens_B: pieces of each sentence, 0 or more.

        A sentence with blank or `<unk>` in it has a log-probability of minus infinity.
        """
        lens_B1 = lens_B.to(tokens_BS.device).unsqueeze(1)
        places_T = torch.arange(tokens_BS.shape[1] + 1, device=tokens_BS.device)
        inputs_BT = functional.pad(tokens_BS, (1, 0), value=END_ID)
        targets_BT = functional.pad(tokens_BS, (0, 1), value=END_ID).masked_fill(places_T == lens_B1, END_ID)
        log_probs_BTV = self.next_log_probs(inputs_BT)
        log_probs_BT = log_probs_BTV.gather(2, targets_BT.unsqueeze(2)).squeeze(2)
        return log_probs_BT.masked_fill(places_T > lens_B1, 0.0)

    def log_probs(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Log-probability (B,) of each sentence, its end included: a sum, not a mean. See `forward`."""
        return self(tokens_BS, lens_B).sum(dim=1)

    def next_log_probs(self, inputs_BT: Tensor) -> Tensor:
        """Log-probabilities (B, T, V) of what follows each of the inputs, of which the first is the start."""
        rotation = rotary_tables(inputs_BT.shape[1], self._head_dim, like=self.embedding.weight)
        x_BTD = self.dropout(self.embedding(inputs_BT))
        for layer in self.layers:
            x_BTD = layer(x_BTD, rotation)
        return self._classify(x_BTD)

    def initial_state(self, batch_size: int) -> LanguageModelState:
        """The state of `batch_size` hypotheses that have heard nothing, not even the start."""
        device = self.embedding.weight.device
        return LanguageModelState(
            tuple(layer.attention.init_state(batch_size) for layer in self._typed_layers),
            torch.zeros(batch_size, dtype=torch.int64, device=device),
        )

    def score(self, pieces_N: Tensor, state: LanguageModelState) -> tuple[Tensor, LanguageModelState]:
        """Feed one piece to each hypothesis; log-probabilities (N, V) of the next one, and the new state."""
        window = self.config.context
        rotation = rotary_tables(window, self._head_dim, like=self.embedding.weight)
        places_W = torch.arange(window, device=pieces_N.device)
        visible_NW = places_W >= window - 1 - state.count_N.unsqueeze(1)
        x_ND = self.embedding(pieces_N)
        new_layers = []
        for layer, old in zip(self._typed_layers, state.layers, strict=True):
            x_ND, new = layer.step(x_ND, old, visible_NW, rotation)
            new_layers.append(new)
        count_N = (state.count_N + 1).clamp(max=window - 1)
        return self._classify(x_ND), LanguageModelState(tuple(new_layers), count_N)

    @property
    def _head_dim(self) -> int:
        return self.config.dim // self.config.num_heads

    @property
    def _typed_layers(self) -> list[_Layer]:
        return [layer for layer in self.layers if isinstance(layer, _Layer)]

    def _classify(self, x: Tensor) -> Tensor:
        logits = functional.linear(self.norm(x), self.embedding.weight, self.output_bias_V).float()
        return logits.masked_fill(self.impossible_V, -torch.inf).log_softmax(dim=-1)


def _check(config: LanguageModelConfig) -> None:
    check_options(config, "model")
    if config.vocab_size < 4:
        raise UserError(f"model.vocab_size is {config.vocab_size}; three of its pieces are special")
    if config.dim % (2 * config.num_heads):
        raise UserError(
            f"model.dim is {config.dim}; it must be a multiple of twice model.num_heads "
            f"({config.num_heads}), for heads of an even width"
        )
