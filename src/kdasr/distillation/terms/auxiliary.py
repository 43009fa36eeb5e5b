"""`auxiliary`: branches that see the whole utterance, of training only, through which a teacher teaches.

After Shim et al. 2023 (arXiv 2308.16415). A streaming layer cannot have what the teacher's layer knows of the
future. So the teacher's layer is matched by a branch on top of the student's: a projection to the teacher's
width and one Transformer layer over the whole utterance. What the student's layer has to give is what the
branch needs. A uni-directional LSTM on the branch predicts the teacher's layer some frames ahead from what
came before (autoregressive predictive coding). The branches are parameters of the objective: a trained
model, its checkpoints and its export do not have them.

Ours, for want of the full text: relations between a layer's outputs (`kdasr.losses.auxiliary`); the LSTM
hears the branch with *all* later frames hidden, by a second pass of its layer. To hide only the frames up to
the predicted one would show that frame to the LSTM by way of earlier frames. The weights have to be tuned.
"""

# Shapes: B utterances, T encoder frames, D the teacher's width, H the student's.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.common.ranges import EXPERIMENTAL, LARGEST_SIZE, Items, at_least, between
from kdasr.distillation.terms.base import Given, Need, Setup, Term, register
from kdasr.distillation.terms.hidden_mse import layers_of_its_rate, nearest_layers, partner_layer
from kdasr.losses.auxiliary import distance_loss, relation_loss
from kdasr.models.encoders.base import Geometry

PARTS = ("distance", "relation", "prediction")


@dataclass
class AuxiliaryConfig:
    """Training-only branches on layers of the student."""

    layers: Annotated[list[int], at_least(0), Items()] = field(default_factory=list)
    """The student's layers that have a branch, counted from 0; of its output's frame rate. Empty: none, and
    the term cannot have a weight."""
    teacher_layers: Annotated[list[int], at_least(0), Items(unique=False), EXPERIMENTAL] = field(
        default_factory=list
    )
    """The teacher's partner of each; empty: the same relative depth."""
    num_heads: Annotated[int, between(1, LARGEST_SIZE)] = 4
    """Of the branch's attention, and of the relations."""
    ffn_dim: Annotated[int, between(1, LARGEST_SIZE)] = 512
    """Inner width of the branch's feed-forward part."""
    distance: Annotated[float, at_least(0), EXPERIMENTAL] = 1.0
    """Weight of the distance between branch and teacher, within the term."""
    relation: Annotated[float, at_least(0), EXPERIMENTAL] = 0.05
    """Of the relations between frames; 0: not computed."""
    prediction: Annotated[float, at_least(0), EXPERIMENTAL] = 0.5
    """Of the distance between what the LSTM predicts and what the teacher has; 0: there is no LSTM."""
    ahead: Annotated[int, between(1, 1000), EXPERIMENTAL] = 2
    """Encoder frames by which the LSTM predicts."""


class BranchOutput(NamedTuple):
    """What a branch makes of a layer."""

    whole_BTD: Tensor
    """Knows the whole utterance."""
    predicted_BTD: Tensor | None
    """At frame t knows frames up to t only; None without an LSTM."""


class Branch(nn.Module):
    """Projection, one Transformer layer and, for predictions, a uni-directional LSTM."""

    def __init__(self, config: AuxiliaryConfig, width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, teacher_width)
        self.layer = nn.TransformerEncoderLayer(
            teacher_width,
            config.num_heads,
            config.ffn_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.lstm = nn.LSTM(teacher_width, teacher_width, batch_first=True) if config.prediction else None

    def forward(self, hidden_BTH: Tensor, lens_B: Tensor) -> BranchOutput:
        """A layer's frames, of which `lens_B` are valid, to the branch's."""
        num_frames, device = hidden_BTH.shape[1], hidden_BTH.device
        projected_BTD = self.project(hidden_BTH)
        frames_T = torch.arange(num_frames, device=device)
        # An utterance without frames sees its first one: attention to nothing is NaN.
        beyond_BT = frames_T >= lens_B.to(device, non_blocking=True).clamp(min=1)[:, None]
        whole_BTD = self.layer(projected_BTD, src_key_padding_mask=beyond_BT)
        if self.lstm is None:
            return BranchOutput(whole_BTD, None)
        later_TT = frames_T[:, None] < frames_T
        past_BTD = self.layer(projected_BTD, src_mask=later_TT, src_key_padding_mask=beyond_BT)
        return BranchOutput(whole_BTD, self.lstm(past_BTD)[0])


@register
class AuxiliaryTerm(Term):
    """A mean over layers. Also logs its parts before their weights: `aux_distance` and so on."""

    name = "auxiliary"
    title = "auxiliary branches (auxiliary)"
    needs = frozenset({Need.TEACHER})
    settings = AuxiliaryConfig
    place = 7

    def __init__(self, config: AuxiliaryConfig, student: Geometry, teacher: Geometry) -> None:
        """Raises UserError for layers that do not exist, do not pair up, or are of another rate, and for
        widths that the heads do not divide."""
        super().__init__()
        self.config, self.layers = config, list(config.layers)
        depth, teacher_depth = len(student.hidden), len(teacher.hidden)
        wanted = [partner_layer(layer, depth, teacher_depth) for layer in self.layers]
        self.partners = list(config.teacher_layers) or nearest_layers(wanted, layers_of_its_rate(teacher))
        _check_layers(config, self.partners, student, teacher)
        self.branches = nn.ModuleList(
            Branch(config, student.hidden[own].dim, teacher.hidden[other].dim)
            for own, other in zip(self.layers, self.partners, strict=True)
        )

    @classmethod
    def build(cls, setup: Setup) -> "AuxiliaryTerm":
        """On the layers of an objective's student and teacher."""
        assert setup.teacher is not None
        return cls(setup.options, setup.student.geometry, setup.teacher.geometry)

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """The parts with their weights, summed.

        Raises:
            UserError: no layers; see `AlignedTeacher.hidden`.
        """
        assert given.teacher is not None
        if not self.layers:
            raise UserError("objective.auxiliary.layers is empty; the term needs the layers that it hangs on")
        lens_B = given.output.lens_B
        found: list[dict[str, Tensor]] = []
        for branch, layer, partner in zip(self.branches, self.layers, self.partners, strict=True):
            of_branch = branch(given.output.hidden[layer], lens_B)
            found.append(self._parts(of_branch, given.teacher.hidden(partner), lens_B))
        means = {name: torch.stack([parts[name] for parts in found]).mean(0) for name in found[0]}
        total_B = torch.stack([getattr(self.config, name) * mean_B for name, mean_B in means.items()]).sum(0)
        return {"auxiliary": total_B, **{f"aux_{name}": mean_B for name, mean_B in means.items()}}

    def _parts(self, branch: BranchOutput, teacher_BTD: Tensor, lens_B: Tensor) -> dict[str, Tensor]:
        parts = {}
        if self.config.distance:
            parts["distance"] = distance_loss(branch.whole_BTD, teacher_BTD, lens_B)
        if self.config.relation:
            parts["relation"] = relation_loss(branch.whole_BTD, teacher_BTD, lens_B, self.config.num_heads)
        if branch.predicted_BTD is not None:
            ahead = min(self.config.ahead, teacher_BTD.shape[1])
            predicted_BTD = branch.predicted_BTD[:, : teacher_BTD.shape[1] - ahead]
            parts["prediction"] = distance_loss(
                predicted_BTD, teacher_BTD[:, ahead:], (lens_B - ahead).clamp(min=0)
            )
        return parts


def _check_layers(config: AuxiliaryConfig, partners: list[int], student: Geometry, teacher: Geometry) -> None:
    if len(partners) != len(config.layers):
        raise UserError(
            f"objective.auxiliary.teacher_layers has {len(partners)} entries for {len(config.layers)} layers"
        )
    if config.layers and not any(getattr(config, part) for part in PARTS):
        raise UserError("objective.auxiliary: distance, relation and prediction are all 0")
    for name, layers, encoder in (("layers", config.layers, student), ("teacher_layers", partners, teacher)):
        option, last = f"objective.auxiliary.{name}", len(encoder.hidden) - 1
        for layer in layers:
            if layer > last:
                raise UserError(f"{option}: {layer} is not a layer; there are 0 to {last}")
            if encoder.hidden[layer].stride != encoder.stride:
                raise UserError(f"{option}: layer {layer} has another frame rate than its encoder's output")
    for layer in partners:
        width = teacher.hidden[layer].dim
        if width % config.num_heads:
            raise UserError(
                f"objective.auxiliary.num_heads is {config.num_heads}; it must divide {width}, the width of "
                f"the teacher's layer {layer}"
            )
