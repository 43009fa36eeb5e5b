"""The additive joiner, as the losses see it."""

# Shapes: B utterances, S symbols, T frames, V classes, D joiner width, N lattice nodes.

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.losses.precision import as_float
from kdasr.nn.linear import linear_product


class NodeLogits(Protocol):
    """Distributions at lattice nodes; `Joint` is one."""

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Unnormalized log-probabilities of nodes, `(N, classes)`, without gradient."""
        ...


class Joint(NamedTuple):
    """What an additive joiner's logits are made of: `tanh(am + lm) weight^T + bias`."""

    am_BTD: Tensor
    """Projected encoder output."""
    lm_BSD: Tensor
    """Projected predictor output, `(B, S + 1, D)`."""
    weight_VD: Tensor
    bias_V: Tensor

    def hidden_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Hidden layer of nodes, given as rows of the flattened `am` and `lm`, `(N, D)`; no gradient."""
        hidden = self.am_BTD.flatten(0, 1).index_select(0, frames_N)
        return _tanh_(hidden.add_(self.lm_BSD.flatten(0, 1).index_select(0, states_N)))

    def output_of(self, hidden_ND: Tensor) -> Tensor:
        """Logits `(N, V)` of a hidden layer, float32 or float64; no gradient."""
        weight, bias = self.weight_VD.to(hidden_ND.dtype), self.bias_V.to(hidden_ND.dtype)
        return as_float(linear_product(hidden_ND, weight, bias))

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        """Logits `(N, V)` of nodes, as `hidden_of` takes them."""
        return self.output_of(self.hidden_of(frames_N, states_N))


def check_joint(joint: Joint, ranges: Tensor) -> None:
    """Refuse a joiner whose parts fit neither each other nor the frames of `ranges` `(B, T, K)`.

    Raises:
        ValueError: naming the shapes.
    """
    am, lm, weight, bias = joint
    if am.ndim != 3 or lm.ndim != 3 or am.shape[:2] != ranges.shape[:2] or lm.shape[0] != am.shape[0]:
        raise ValueError(
            f"am {tuple(am.shape)} and lm {tuple(lm.shape)}: "
            f"expected (B, T, D) and (B, S + 1, D) with ranges {tuple(ranges.shape)} (B, T, K)"
        )
    width = am.shape[2]
    if lm.shape[2] != width or weight.ndim != 2 or weight.shape[1] != width:
        raise ValueError(
            f"am {tuple(am.shape)}, lm {tuple(lm.shape)}, weight {tuple(weight.shape)}: expected one width D"
        )
    if bias is None or bias.shape != weight.shape[:1]:
        shape = None if bias is None else tuple(bias.shape)
        raise ValueError(f"bias {shape}: expected ({weight.shape[0]},)")


def _tanh_(values: Tensor) -> Tensor:
    """tanh in place, within 2e-7: on the CPU torch's logistic function is ten times as fast as its tanh."""
    if values.device.type != "cpu" or values.dtype not in (torch.float32, torch.float64):
        return values.tanh_()
    return values.mul_(2.0).sigmoid_().mul_(2.0).sub_(1.0)
