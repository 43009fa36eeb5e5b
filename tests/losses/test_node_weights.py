"""The teacher's part of the weights, against its whole logits on the band."""

import pytest
import torch
from small_lattice import BOUNDARY, SYMBOLS, random_joint, ranges_of, valid_nodes
from straightforward import joiner_logits
from torch import Tensor

from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.node_weights import BY_ENTROPY, BY_TEACHER, teacher_entropy, teacher_weights
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.teacher_band import teacher_band
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation

RANGES = ranges_of(random_joint())
VALID = valid_nodes(RANGES)


def weights_of(kind: str, teacher: Joint, ranges: Tensor = RANGES, rnnt_type: str = "regular") -> Tensor:
    if kind in BY_ENTROPY:
        return teacher_entropy(teacher, SYMBOLS, ranges, BOUNDARY, VALID)
    band = teacher_band(teacher, SYMBOLS, ranges, 0, BOUNDARY, rnnt_type)
    return teacher_weights(kind, band, VALID)


def occupation_of(joint: Joint, rnnt_type: str = "regular") -> Tensor:
    logits = joiner_logits(joint, RANGES)
    occupation = pruned_loss_and_occupation(logits, SYMBOLS, RANGES, 0, BOUNDARY, rnnt_type)[1]
    assert occupation is not None
    return occupation


def test_nonblank_is_what_blank_leaves() -> None:
    teacher = random_joint(1)
    expected = joiner_logits(teacher, RANGES).softmax(-1)[..., 1:].sum(-1)
    torch.testing.assert_close(weights_of("nonblank", teacher), expected * VALID)


def test_entropy_is_that_of_the_teachers_distributions() -> None:
    teacher = random_joint(1)
    log_probs = joiner_logits(teacher, RANGES).log_softmax(-1)
    expected = -(log_probs.exp() * log_probs).sum(-1)
    torch.testing.assert_close(weights_of("entropy", teacher), expected * VALID)


def test_utterances_without_frames_have_no_entropy() -> None:
    boundary, nothing = BOUNDARY * torch.tensor([1, 1, 1, 0]), torch.zeros_like(VALID)
    entropy = teacher_entropy(random_joint(1), SYMBOLS, RANGES, boundary, nothing)
    torch.testing.assert_close(entropy, torch.zeros(VALID.shape))


@pytest.mark.parametrize("kind", ["teacher_occupation", "both"])
@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_the_teachers_occupation_is_of_its_paths_in_the_band(kind: str, rnnt_type: str) -> None:
    teacher = random_joint(1)
    expected = occupation_of(teacher, rnnt_type) * VALID
    torch.testing.assert_close(weights_of(kind, teacher, rnnt_type=rnnt_type), expected)


def test_both_is_the_chance_that_two_paths_meet() -> None:
    student, teacher = random_joint(), random_joint(1)
    meet = occupation_of(student) * occupation_of(teacher) * VALID
    term = PowerKl(teacher, PowerRule(), KlForm(), weights_of("both", teacher), by_occupation=True)
    weights = term.weigh(occupation_of(student))
    torch.testing.assert_close(weights, meet / meet.sum((1, 2), keepdim=True))
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("kind", sorted(BY_TEACHER))
def test_padding_does_not_matter(kind: str) -> None:
    teacher = random_joint(1)
    expected = weights_of(kind, teacher)
    am_BTD, lm_BSD = teacher.am_BTD.detach().clone(), teacher.lm_BSD.detach().clone()
    am_BTD[1, 5:], am_BTD[2, 6:], lm_BSD[1, 3:] = torch.nan, 5.0, -7.0
    torch.testing.assert_close(weights_of(kind, teacher._replace(am_BTD=am_BTD, lm_BSD=lm_BSD)), expected)
    assert not expected[~VALID].any() and not expected.requires_grad


@pytest.mark.parametrize("kind", sorted(BY_TEACHER))
def test_nodes_at_which_the_teacher_is_nan_count(kind: str) -> None:
    """So that the divergence is evaluated there, and is NaN, instead of passing over them."""
    teacher = random_joint(1)
    am_BTD = teacher.am_BTD.detach().clone()
    am_BTD[1, 2] = torch.nan
    weights = weights_of(kind, teacher._replace(am_BTD=am_BTD))
    assert weights.isfinite().all() and (weights[1, 2][VALID[1, 2]] == 1.0).all()


def test_a_teacher_without_a_path_in_the_band_weighs_nothing() -> None:
    ranges = torch.arange(2).expand(3, 7, 2).contiguous()  # state 4 is never reached
    band = teacher_band(random_joint(1), SYMBOLS, ranges, 0, BOUNDARY)
    weights = teacher_weights("both", band, valid_nodes(ranges))
    assert weights.flatten(1).any(1).tolist() == [False, False, True]
