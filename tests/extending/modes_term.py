"""Walk "A term" of docs/extending.md: one file in `src/kdasr/distillation/terms/`, and nothing else."""

# Shapes: B utterances, T encoder frames, D encoder width.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from kdasr.common.ranges import above
from kdasr.distillation.terms.base import Given, Need, Setup, Term, Unit, register


@dataclass
class ModesConfig:
    """Options under `objective.modes`."""

    scale: Annotated[float, above(0)] = 1.0


@register
class ModesTerm(Term):
    """The student's output under its own context follows a projection of its output under the full one."""

    name = "modes"
    title = "two contexts (modes)"
    unit = Unit.FRAME
    needs = frozenset({Need.SECOND_CONTEXT})
    settings = ModesConfig

    def __init__(self, scale: float, dim: int) -> None:
        super().__init__()
        self.scale = scale
        self.project = nn.Linear(dim, dim)  # trains with the student

    @classmethod
    def build(cls, setup: Setup) -> "ModesTerm":
        return cls(setup.options.scale, setup.student.geometry.dim)

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        assert given.second is not None
        error_BTD = given.output.encoded_BTD - self.project(given.second.encoded_BTD)
        inside_BT = torch.arange(error_BTD.shape[1]) < given.output.lens_B[:, None]
        error_BT = error_BTD.square().mean(2).masked_fill(~inside_BT, 0.0)
        return {"modes": self.scale * error_BT.sum(1)}
