"""`hidden_mse`: which layers of student and teacher are compared, and the projections between widths."""

# Shapes: B utterances, T encoder frames, D widths.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.common.ranges import Items, at_least, between
from kdasr.distillation.terms.base import Given, Need, Setup, Term, register
from kdasr.losses.hidden import hidden_mse


@dataclass
class HiddenConfig:
    """Mean squared error between hidden layers of student and teacher."""

    layers: Annotated[list[int], at_least(0), Items()] = field(default_factory=list)
    """Student's encoder layers, counted from 0; empty: all."""
    teacher_layers: Annotated[list[int], at_least(0), Items(unique=False)] = field(default_factory=list)
    """The teacher's partner of each student layer; empty: the same relative depth."""
    layer_weights: Annotated[list[float], at_least(0), Items(unique=False)] = field(default_factory=list)
    """Empty: 1 each."""
    shift: Annotated[int, between(-1000, 1000)] = 0
    """Encoder frames: the student's frame t is compared with the teacher's frame t - shift. Above 0 the
    student may know so much later what the teacher knows from the future."""


@register
class HiddenTerm(Term):
    """First stage of Tang et al. 2023 (arXiv 2306.15171): the student's layers follow the teacher's."""

    name = "hidden_mse"
    title = "hidden states (hidden_mse)"
    needs = frozenset({Need.TEACHER})
    settings = HiddenConfig
    section = "hidden"
    place = 2

    def __init__(self, config: HiddenConfig, student: Sequence[int], teacher: Sequence[int]) -> None:
        """`student`, `teacher`: width of each hidden layer.

        Raises UserError for layers that do not exist or lists that do not pair up."""
        super().__init__()
        self.student_layers = list(config.layers) or list(range(len(student)))
        self.teacher_layers = list(config.teacher_layers) or [
            partner_layer(layer, len(student), len(teacher)) for layer in self.student_layers
        ]
        self.weights = list(config.layer_weights) or [1.0] * len(self.student_layers)
        self.shift = config.shift
        _check_layers("layers", self.student_layers, len(student))
        _check_layers("teacher_layers", self.teacher_layers, len(teacher))
        for name, values in (("teacher_layers", self.teacher_layers), ("layer_weights", self.weights)):
            if len(values) != len(self.student_layers):
                raise UserError(
                    f"objective.hidden.{name} has {len(values)} entries for {len(self.student_layers)} layers"
                )
        self.adapters = nn.ModuleList()
        widths = [
            (student[own], teacher[other])
            for own, other in zip(self.student_layers, self.teacher_layers, strict=True)
        ]
        if any(own != other for own, other in widths):
            self.adapters.extend(nn.Linear(own, other) for own, other in widths)

    @classmethod
    def build(cls, setup: Setup) -> "HiddenTerm":
        """Between the layers of an objective's student and teacher."""
        assert setup.teacher is not None
        encoder = setup.student.encoder
        return cls(setup.options, [encoder.dim] * encoder.num_layers, setup.teacher.hidden_dims)

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """Mean squared error, summed over layer pairs with their weights."""
        assert given.teacher is not None
        teacher = [given.teacher.hidden(layer) for layer in self.teacher_layers]
        return {"hidden_mse": self.compare(given.output.hidden, teacher, given.output.lens_B)}

    def compare(self, student: Sequence[Tensor], partners: Sequence[Tensor], lens_B: Tensor) -> Tensor:
        """Error of each utterance, `(B,)`, from all encoder layers of the student, and the
        teacher's partners of the compared ones; frames without a partner are left
        out of the mean."""
        chosen = [student[layer] for layer in self.student_layers]
        if len(self.adapters) > 0:
            chosen = [adapter(layer) for adapter, layer in zip(self.adapters, chosen, strict=True)]
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
