from itertools import product

import pytest
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.lattice import LatticeBuilder, PrunedLattice
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.terms.output_kl import CLASSES, OutputConfig, OutputTerm
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.node_weights import NODE_WEIGHTS
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_model

BUILDER = LatticeBuilder(RnntConfig(backend="native", prune_range=3))


def build(seed: int) -> PrunedLattice:
    model, batch = tiny_model(seed), dummy_batch()
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context.full())
    return BUILDER.build(model, output, batch, train_simple=False, warm=True)


def divergence(config: OutputConfig, lattice: PrunedLattice, teacher: Joint) -> Tensor:
    with torch.no_grad():
        term = OutputTerm(config, "regular").on_nodes(lattice, teacher)
        return BUILDER.evaluate(lattice, warm=True, nodes=[term]).nodes[0].value_B


def early_by(student: PrunedLattice, frames: int) -> Joint:
    """The student's own joiner, which hears each utterance `frames` earlier, and noise beyond its ends."""
    am_BTD = student.joint.am_BTD.detach()
    moved_BTD = torch.randn(am_BTD.shape, generator=torch.Generator().manual_seed(2))
    for b, length in enumerate(student.boundary_B4[:, 3].tolist()):
        for t in range(max(-frames, 0), min(length, length - frames)):
            moved_BTD[b, t] = am_BTD[b, t + frames]
    return Joint(moved_BTD, *(x.detach() for x in student.joint[1:]))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("node_weights", NODE_WEIGHTS)
@pytest.mark.parametrize("shift", [2, -1])
def test_a_student_may_be_later_than_its_teacher_by_the_shift(
    shift: int, node_weights: str, classes: str
) -> None:
    lattice = build(seed=0)
    # Sharp, so that the wrong frame would cost something.
    lattice.joint.weight_VD.data.mul_(20.0)
    teacher = early_by(lattice, shift)
    config = OutputConfig(shift=shift, node_weights=node_weights, classes=classes)
    torch.testing.assert_close(divergence(config, lattice, teacher), torch.zeros(3), rtol=0, atol=1e-5)
    for other in (0, -shift):
        wrong = OutputConfig(shift=other, node_weights=node_weights, classes=classes)
        assert (divergence(wrong, lattice, teacher) > 0.01).all()


def test_every_setting_of_classes_weights_and_shift_is_another_term() -> None:
    lattice, teacher = build(seed=0), build(seed=1).joint
    teacher.weight_VD.data.mul_(20.0)  # sharp: entropies differ
    values = [
        divergence(
            OutputConfig("fixed", 0.5, classes=classes, node_weights=weights, shift=shift), lattice, teacher
        )
        for classes, weights, shift in product(CLASSES, NODE_WEIGHTS, (0, 1))
    ]
    for i, value in enumerate(values):
        assert (value > 0).all()
        assert not any(torch.allclose(value, other, rtol=1e-4) for other in values[:i])


def test_smoothing_ends_between_the_steps_of_anneal() -> None:
    lattice, teacher = build(seed=0), build(seed=1).joint
    moving = OutputTerm(OutputConfig("fixed", 0.4, anneal=[10, 20]), "regular")
    for step, exponent in ((0, 0.4), (10, 0.4), (15, 0.7), (20, 1.0), (99, 1.0)):
        fixed = OutputTerm(OutputConfig("fixed", exponent), "regular")
        values = [
            BUILDER.evaluate(lattice, warm=True, nodes=[term]).nodes[0].value_B
            for term in (moving.on_nodes(lattice, teacher, step), fixed.on_nodes(lattice, teacher))
        ]
        torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"anneal": [5]}, r"objective\.output\.anneal is \[5\]"),
        ({"classes": "symbols", "direction": "symmetric"}, "direction: symmetric needs classes"),
    ],
)
def test_settings_that_do_not_go_together_are_named(options: dict, culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        OutputTerm(OutputConfig("fixed", 0.5, **options), "regular")
