"""A running average of the weights, kept beside those that train."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdasr.checkpoint import load_weights


class RunningAverage:
    """The exponential average of a model's weights over optimizer steps.

    At step number n (from 1) the share min(decay, n / (n + 9)) of it stays, so that the weights from before
    the training are soon forgotten. Buffers are those of the model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the weights that `model` has."""
        self._decay = decay
        self._source = model
        self._steps = 0
        self._average = AveragedModel(model, multi_avg_fn=self._move)
        self._average.n_averaged.fill_(1)  # at 0 the first step would replace all of it

    @property
    def model(self) -> nn.Module:
        """With the averaged weights."""
        model: nn.Module = self._average.module
        return model

    def update(self) -> None:
        """Take in the weights after an optimizer step."""
        self._steps += 1
        self._average.update_parameters(self._source)

    def state_dict(self) -> dict[str, Any]:
        """Plain values; the averaged weights are those of `model`."""
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any], weights: Mapping[str, Tensor], source: str) -> None:
        """Go on from what was saved, with averaged weights from the checkpoint `source`."""
        load_weights(self.model, weights, source)
        self._steps = state["steps"]

    @torch.no_grad()
    def _move(self, average: Sequence[Tensor], current: Sequence[Tensor], _: Tensor | int) -> None:
        stays = min(self._decay, self._steps / (self._steps + 9))
        torch._foreach_lerp_(list(average), list(current), 1 - stays)
