"""Walk "An encoder" of docs/extending.md: a causal convolution with a frame per 80 ms."""

# Shapes: B utterances or streams, T feature frames, W of a window, F features, M frames of 40 ms, U of 80 ms,
# C of a chunk, H before it, P = H + U, D width.

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.common.ranges import at_least
from kdasr.models.encoders.base import (
    Encoder,
    EncoderConfig,
    EncoderOutput,
    Geometry,
    HiddenLayer,
    StepOutput,
)
from kdasr.nn.context import Context

HISTORY = 3


@dataclass
class CausalConfig(EncoderConfig):
    """Three convolutions: two that subsample, to frames of 40 and 80 ms, and one that looks back."""

    type: str = "toy-causal"
    width: Annotated[int, at_least(1)] = 12
    extra_frames: Annotated[int, at_least(0)] = 0
    """Frames that a whole utterance has at its end beyond those of a stream."""

    @property
    def geometry(self) -> Geometry:
        hidden = (HiddenLayer(8, 4), HiddenLayer(self.width, 8))
        return Geometry(
            self.width, stride=8, overlap=5, hidden=hidden, whole_overlap=5 - 8 * self.extra_frames
        )

    def check(self, num_features: int) -> None:
        if self.width % 2:
            raise UserError(f"model.encoder.width is {self.width}; it must be even")

    def check_context(self, context: Context) -> None:
        if context.right:
            raise UserError(f"context '{context}': this encoder has no look-ahead")

    def build(self, num_features: int) -> "CausalEncoder":
        return CausalEncoder(self, num_features)


class CausalState(NamedTuple):
    """The last frames before the window."""

    last_BHD: Tensor


class CausalEncoder(Encoder):
    """Frame u is computed from feature frames 8u .. 8u + 12 and from the three frames before it."""

    config: CausalConfig

    def __init__(self, config: CausalConfig, num_features: int) -> None:
        super().__init__(config)
        self.first = nn.Conv1d(num_features, 8, 5, stride=4)
        self.second = nn.Conv1d(8, config.width, 3, stride=2)
        self.back = nn.Conv1d(config.width, config.width, HISTORY + 1)
        self.register_buffer("mean_F", torch.zeros(num_features))

    def set_feature_stats(self, mean_F: Tensor, std_F: Tensor) -> None:
        self.get_buffer("mean_F").copy_(mean_F)

    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> CausalState:
        self.check_stream(context)
        return CausalState(self.back.weight.new_zeros(batch_size, HISTORY, self.config.width, device=device))

    def forward(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        self.config.check_context(context)
        first_BMD, x_BUD = self._subsample(features_BTF)
        x_BUD = functional.pad(x_BUD, (0, 0, 0, self.config.extra_frames), value=3.0)
        encoded_BUD, _ = self._look_back(x_BUD, torch.zeros_like(x_BUD[:, :1]).repeat(1, HISTORY, 1))
        lens_B = self.geometry.num_frames(feature_lens_B.cpu())
        return EncoderOutput(encoded_BUD, lens_B, [first_BMD, encoded_BUD])

    def step(
        self, features_BWF: Tensor, state: CausalState, context: Context, feature_lens_B: Tensor | None = None
    ) -> StepOutput:
        self.check_window(features_BWF, context)
        _, x_BCD = self._subsample(features_BWF)
        encoded_BCD, last_BHD = self._look_back(x_BCD, state.last_BHD)
        lens_B = torch.full((len(x_BCD),), context.chunk)
        if feature_lens_B is not None:
            lens_B = self.geometry.streamed_frames(feature_lens_B)
        return StepOutput(encoded_BCD, lens_B, CausalState(last_BHD))

    def _subsample(self, features_BTF: Tensor) -> tuple[Tensor, Tensor]:
        x_BFT = (features_BTF - self.get_buffer("mean_F")).transpose(1, 2) / 4.0
        first_BDM = torch.tanh(self.first(x_BFT))
        return first_BDM.transpose(1, 2), torch.tanh(self.second(first_BDM)).transpose(1, 2)

    def _look_back(self, x_BUD: Tensor, last_BHD: Tensor) -> tuple[Tensor, Tensor]:
        x_BPD = torch.cat([last_BHD, x_BUD], dim=1)
        return x_BUD + self.back(x_BPD.transpose(1, 2)).transpose(1, 2), x_BPD[:, -HISTORY:]
