"""Which frames of student and teacher `hidden_mse` compares."""

import pytest
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.terms.hidden_mse import HiddenConfig, HiddenTerm
from kdasr.losses.hidden import hidden_mse
from kdasr.models.encoders.base import Geometry, HiddenLayer

# Shapes: B utterances, T frames, D width.

LENS_B = torch.tensor([9, 4, 2, 0])


def _layers(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 9, 6, generator=generator) for _ in range(2)]


def _term(shift: int) -> HiddenTerm:
    encoder = Geometry(dim=6, stride=4, overlap=3, hidden=(HiddenLayer(6, 4), HiddenLayer(6, 4)))
    return HiddenTerm(HiddenConfig(shift=shift, layer_weights=[1.0, 0.5]), encoder, encoder)


def test_without_a_shift_frames_are_their_own_partners() -> None:
    student, teacher = _layers(1), _layers(2)
    assert torch.equal(
        _term(0).compare(student, teacher, LENS_B), hidden_mse(student, teacher, LENS_B, [2 / 3, 1 / 3])
    )


@pytest.mark.parametrize("shift", [-3, -1, 1, 2, 3])
def test_a_shifted_copy_of_the_teacher_has_no_loss(shift: int) -> None:
    teacher = _layers(1)
    # Beyond each end there is something else, and so there is in the padding.
    student = []
    for layer_BTD, other_BTD in zip(teacher, _layers(2), strict=True):
        moved_BTD = other_BTD.clone()
        for row, length in enumerate(LENS_B.tolist()):
            for frame in range(length):
                if 0 <= frame - shift < length:
                    moved_BTD[row, frame] = layer_BTD[row, frame - shift]
        student.append(moved_BTD)
    assert torch.equal(_term(shift).compare(student, teacher, LENS_B), torch.zeros(4))
    assert bool((_term(shift + 1).compare(student, teacher, LENS_B)[0] > 0.1).all())
    assert bool((_term(0).compare(student, teacher, LENS_B)[:2] > 0.1).all())


@pytest.mark.parametrize("shift", [-20, -9, 9, 20])
def test_utterances_shorter_than_the_shift_have_no_partners(shift: int) -> None:
    assert torch.equal(_term(shift).compare(_layers(1), _layers(2), LENS_B), torch.zeros(4))


FAST, OWN = HiddenLayer(6, 2), HiddenLayer(6, 4)


def _encoder(*layers: HiddenLayer) -> Geometry:
    return Geometry(dim=6, stride=4, overlap=3, hidden=layers)


def test_layers_of_another_rate_are_left_out_unless_they_are_named() -> None:
    student, teacher = _encoder(FAST, OWN, OWN, FAST), _encoder(OWN, FAST)
    term = HiddenTerm(HiddenConfig(), student, teacher)
    assert (term.student_layers, term.teacher_layers) == ([1, 2], [0, 0])
    with pytest.raises(UserError, match=r"objective\.hidden\.layers: layer 3 has another frame rate"):
        HiddenTerm(HiddenConfig(layers=[3]), student, teacher)
    with pytest.raises(UserError, match=r"objective\.hidden\.teacher_layers: layer 1 has another frame rate"):
        HiddenTerm(HiddenConfig(layers=[1], teacher_layers=[1]), student, teacher)


@pytest.mark.parametrize("encoders", [([OWN], [FAST]), ([FAST], [OWN]), ([FAST], [])])
def test_without_layers_of_its_rate_only_hidden_mse_is_refused(
    encoders: tuple[list[HiddenLayer], ...],
) -> None:
    term = HiddenTerm(HiddenConfig(), *(_encoder(*layers) for layers in encoders))
    with pytest.raises(UserError, match="no layer has the frame rate of its encoder's output"):
        term.compare([torch.zeros(1, 2, 6)], [torch.zeros(1, 2, 6)], torch.tensor([2]))
