"""`hidden_mse`: which layers of student and teacher are compared, and the projections between widths."""

# Shapes: B utterances, T encoder frames, D widths.

from collections.abc import Sequence

from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.distillation.config import HiddenConfig
from kdasr.losses.hidden import hidden_mse
from kdasr.models.encoders.base import Geometry


class HiddenTerm(nn.Module):
    """First stage of Tang et al. 2023 (arXiv 2306.15171): the student's layers follow the teacher's."""

    def __init__(self, config: HiddenConfig, student: Geometry, teacher: Geometry) -> None:
        """Raises UserError for layers that do not exist, lists that do not pair up, or pairs of two rates."""
        super().__init__()
        depth, teacher_depth = len(student.hidden), len(teacher.hidden)
        self.student_layers = list(config.layers) or list(range(depth))
        self.teacher_layers = list(config.teacher_layers) or [
            partner_layer(layer, depth, teacher_depth) for layer in self.student_layers
        ]
        self.weights = list(config.layer_weights) or [1.0] * len(self.student_layers)
        self.shift = config.shift
        _check_layers("layers", self.student_layers, depth)
        _check_layers("teacher_layers", self.teacher_layers, teacher_depth)
        for name, values in (("teacher_layers", self.teacher_layers), ("layer_weights", self.weights)):
            if len(values) != len(self.student_layers):
                raise UserError(
                    f"objective.hidden.{name} has {len(values)} entries for {len(self.student_layers)} layers"
                )
        pairs = [
            (student.hidden[own], teacher.hidden[other])
            for own, other in zip(self.student_layers, self.teacher_layers, strict=True)
        ]
        wrong = [(own, other) for own, other in pairs if own.stride != other.stride]
        if wrong:
            raise UserError(
                f"hidden_mse compares a layer with a frame per {wrong[0][0].stride} feature frames with one "
                f"per {wrong[0][1].stride}: choose objective.hidden.layers and teacher_layers of one rate"
            )
        self.adapters = nn.ModuleList()
        if any(own.dim != other.dim for own, other in pairs):
            self.adapters.extend(nn.Linear(own.dim, other.dim) for own, other in pairs)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], lens_B: Tensor) -> Tensor:
        """Error of each utterance, `(B,)`, from all encoder layers of both; frames without a partner are left
        out of the mean."""
        chosen = [student[layer] for layer in self.student_layers]
        if len(self.adapters) > 0:
            chosen = [adapter(layer) for adapter, layer in zip(self.adapters, chosen, strict=True)]
        partners = [teacher[layer] for layer in self.teacher_layers]
        begin, lead = max(self.shift, 0), max(-self.shift, 0)
        if self.shift != 0:
            num_pairs = max(chosen[0].shape[1] - begin - lead, 0)
            chosen = [layer_BTD[:, begin : begin + num_pairs] for layer_BTD in chosen]
            partners = [layer_BTD[:, lead : lead + num_pairs] for layer_BTD in partners]
        return hidden_mse(chosen, partners, (lens_B - begin - lead).clamp(min=0), self.weights)


def partner_layer(layer: int, student_depth: int, teacher_depth: int) -> int:
    """The teacher's layer at the same relative depth; the last layers are partners."""
    return max(round((layer + 1) * teacher_depth / student_depth) - 1, 0)


def _check_layers(name: str, layers: Sequence[int], depth: int) -> None:
    wrong = [layer for layer in layers if not 0 <= layer < depth]
    if wrong:
        raise UserError(f"objective.hidden.{name}: {wrong[0]} is not a layer; there are 0 to {depth - 1}")
