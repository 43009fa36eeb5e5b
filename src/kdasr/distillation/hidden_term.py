"""`hidden_mse`: which layers of student and teacher are compared, and the projections between widths."""

# Shapes: B utterances, T encoder frames, D widths.

from collections.abc import Sequence

from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.distillation.config import HiddenConfig
from kdasr.losses.hidden import hidden_mse
from kdasr.models.transducer.config import EncoderConfig


class HiddenTerm(nn.Module):
    """First stage of Tang et al. 2023 (arXiv 2306.15171): the student's layers follow the teacher's."""

    def __init__(self, config: HiddenConfig, student: EncoderConfig, teacher: EncoderConfig) -> None:
        """Raises UserError for layers that do not exist or lists that do not pair up."""
        super().__init__()
        self.student_layers = list(config.layers) or list(range(student.num_layers))
        self.teacher_layers = list(config.teacher_layers) or [
            partner_layer(layer, student.num_layers, teacher.num_layers) for layer in self.student_layers
        ]
        self.weights = list(config.layer_weights) or [1.0] * len(self.student_layers)
        self.shift = config.shift
        _check_layers("layers", self.student_layers, student.num_layers)
        _check_layers("teacher_layers", self.teacher_layers, teacher.num_layers)
        for name, values in (("teacher_layers", self.teacher_layers), ("layer_weights", self.weights)):
            if len(values) != len(self.student_layers):
                raise UserError(
                    f"objective.hidden.{name} has {len(values)} entries for {len(self.student_layers)} layers"
                )
        self.adapters = nn.ModuleList()
        if student.dim != teacher.dim:
            self.adapters.extend(nn.Linear(student.dim, teacher.dim) for _ in self.student_layers)

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
