"""`hidden_mse`: which layers of student and teacher are compared, and the projections between widths."""

# Shapes: B utterances, T encoder frames, D widths.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.common.ranges import EXPERIMENTAL, Items, at_least, between
from kdasr.distillation.terms.base import Given, Need, Setup, Term, register
from kdasr.losses.hidden import hidden_mse
from kdasr.models.encoders.base import Geometry


@dataclass
class HiddenConfig:
    """Mean squared error between hidden layers of student and teacher."""

    layers: Annotated[list[int], at_least(0), Items()] = field(default_factory=list)
    """Student's encoder layers, counted from 0; empty: all."""
    teacher_layers: Annotated[list[int], at_least(0), Items(unique=False)] = field(default_factory=list)
    """The teacher's partner of each student layer; empty: the same relative depth."""
    layer_weights: Annotated[list[float], at_least(0), Items(unique=False), EXPERIMENTAL] = field(
        default_factory=list
    )
    """What the layers count in the mean over them; empty: all alike."""
    shift: Annotated[int, between(-1000, 1000), EXPERIMENTAL] = 0
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

    def __init__(self, config: HiddenConfig, student: Geometry, teacher: Geometry) -> None:
        """Layers are those of the output's rate unless the configuration names them; none if there are none.

        Raises UserError for layers that do not exist, lists that do not pair up, or layers of another rate.
        """
        super().__init__()
        depth, teacher_depth = len(student.hidden), len(teacher.hidden)
        own_rate, teacher_rate = _layers_of_its_rate(student), _layers_of_its_rate(teacher)
        self.student_layers = list(config.layers) or (own_rate if teacher_rate else [])
        wanted = [partner_layer(layer, depth, teacher_depth) for layer in self.student_layers]
        self.teacher_layers = list(config.teacher_layers) or _nearest(wanted, teacher_rate)
        weights = list(config.layer_weights) or [1.0] * len(self.student_layers)
        self.weights = [weight / (sum(weights) or 1.0) for weight in weights]
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
        _check_rates("layers", student, self.student_layers)
        _check_rates("teacher_layers", teacher, self.teacher_layers)
        self.adapters = nn.ModuleList()
        if any(own.dim != other.dim for own, other in pairs):
            self.adapters.extend(nn.Linear(own.dim, other.dim) for own, other in pairs)

    @classmethod
    def build(cls, setup: Setup) -> "HiddenTerm":
        """Between the layers of an objective's student and teacher."""
        assert setup.teacher is not None
        return cls(setup.options, setup.student.geometry, setup.teacher.geometry)

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """Mean squared error, averaged over layer pairs with their weights: no larger for a deeper encoder.

        Raises:
            UserError: see `compare` and `AlignedTeacher.hidden`.
        """
        assert given.teacher is not None
        teacher = [given.teacher.hidden(layer) for layer in self.teacher_layers]
        return {"hidden_mse": self.compare(given.output.hidden, teacher, given.output.lens_B)}

    def compare(self, student: Sequence[Tensor], partners: Sequence[Tensor], lens_B: Tensor) -> Tensor:
        """Error of each utterance, `(B,)`, from all encoder layers of the student, and the teacher's partners
        of the compared ones, on the student's frames; frames without a partner are left out of the mean.

        Raises:
            UserError: no layer of one encoder has the rate of its output.
        """
        if not self.student_layers:
            raise UserError("hidden_mse: no layer has the frame rate of its encoder's output")
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


def _layers_of_its_rate(encoder: Geometry) -> list[int]:
    """The layers that have as many frames as the encoder's output; all of most encoders."""
    return [index for index, layer in enumerate(encoder.hidden) if layer.stride == encoder.stride]


def _nearest(wanted: Sequence[int], layers: Sequence[int]) -> list[int]:
    """Of each wanted layer, the nearest one among `layers`, where there are any."""
    return [min(layers or [at], key=lambda layer, at=at: abs(layer - at)) for at in wanted]  # type: ignore[misc]


def _check_rates(name: str, encoder: Geometry, layers: Sequence[int]) -> None:
    wrong = [layer for layer in layers if encoder.hidden[layer].stride != encoder.stride]
    if wrong:
        raise UserError(
            f"objective.hidden.{name}: layer {wrong[0]} has another frame rate than its encoder's output; "
            "hidden_mse cannot compare it"
        )
