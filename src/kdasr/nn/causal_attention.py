"""Causal self-attention over a window of places: a whole sequence at once, or one place at a time."""

# Shapes: B sequences, T places of a sequence, N sequences that take a step, W places of the window,
# P = W - 1 places before the newest, D width, H heads, E head width.

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.nn.linear import Linear
from kdasr.nn.rotary import Rotation, rotate


class CausalState(NamedTuple):
    """Keys (before rotation) and values of the last P places, the newest last; zeros before the first."""

    keys_NPD: Tensor
    values_NPD: Tensor


class CausalSelfAttention(nn.Module):
    """Each place attends to itself and to the W - 1 places before it.

    Positions are rotary (Su et al. 2021): scores depend on distances alone, so that it does not matter from
    where they are counted.
    """

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.project_in = Linear(dim, 3 * dim)
        self.project_out = Linear(dim, dim)

    def init_state(self, batch_size: int) -> CausalState:
        """The state of sequences that have not begun."""
        weight = self.project_out.weight
        shape = (batch_size, self.window - 1, weight.shape[0])
        return CausalState(weight.new_zeros(shape), weight.new_zeros(shape))

    def forward(self, x_BTD: Tensor, rotation: Rotation) -> Tensor:
        """Whole sequences (B, T, D); `rotation` is that of T places in a row."""
        q_BHTE, k_BHTE, v_BHTE = (self._heads_first(x) for x in self.project_in(x_BTD).chunk(3, dim=-1))
        q_BHTE, k_BHTE = _rotate(q_BHTE, rotation), _rotate(k_BHTE, rotation)
        length = x_BTD.shape[1]
        if length <= self.window:
            y_BHTE = functional.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, is_causal=True)
        else:
            ones_TT = torch.ones(length, length, dtype=torch.bool, device=x_BTD.device)
            visible_TT = ones_TT.tril() & ones_TT.triu(1 - self.window)
            y_BHTE = functional.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=visible_TT)
        return self.project_out(y_BHTE.transpose(1, 2).flatten(2))

    def step(
        self, x_ND: Tensor, state: CausalState, visible_NW: Tensor, rotation: Rotation
    ) -> tuple[Tensor, CausalState]:
        """The next place of each sequence.

        Args:
            x_ND: input of the new place.
            state: of the places before it.
            visible_NW: which places of the window exist; the last one is the new place.
            rotation: that of W places in a row.

        Returns:
            Output (N, D) and the state after the new place.
        """
        q_ND, k_ND, v_ND = self.project_in(x_ND).chunk(3, dim=-1)
        keys_NWD = torch.cat([state.keys_NPD, k_ND.unsqueeze(1)], dim=1)
        values_NWD = torch.cat([state.values_NPD, v_ND.unsqueeze(1)], dim=1)
        newest = Rotation(rotation.cos_PA[-1:], rotation.sin_PA[-1:])
        y_NH1E = functional.scaled_dot_product_attention(
            _rotate(self._heads_first(q_ND.unsqueeze(1)), newest),
            _rotate(self._heads_first(keys_NWD), rotation),
            self._heads_first(values_NWD),
            attn_mask=visible_NW[:, None, None, :],
        )
        return self.project_out(y_NH1E.flatten(1)), CausalState(keys_NWD[:, 1:], values_NWD[:, 1:])

    def _heads_first(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _rotate(x_BHTE: Tensor, rotation: Rotation) -> Tensor:
    return rotate(x_BHTE.transpose(1, 2), rotation).transpose(1, 2)
