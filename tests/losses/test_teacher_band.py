"""A teacher's arcs on a student's band, against its logits of the whole lattice."""

import pytest
import torch
from straightforward import joiner_logits
from torch import Tensor

from kdasr.losses.lattice import blocks
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.teacher_band import teacher_band
from kdasr.losses.pruned_rnnt.checks import RNNT_TYPES
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation

SYMBOLS = torch.tensor([[1, 2, 4], [3, 1, 2]])
BOUNDARY = torch.tensor([[0, 0, 3, 5], [0, 0, 2, 4]])
RANGES = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]])[:, :, None] + torch.arange(3)


def teacher(**changes: Tensor) -> Joint:
    generator = torch.Generator().manual_seed(1)
    shapes = ((2, 5, 6), (2, 4, 6), (5, 6), (5,))
    joint = Joint(*(torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes))
    return joint._replace(**changes)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one not full."""
    monkeypatch.setitem(blocks.NODES_AT_ONCE, "cpu", 7)


def test_scores_are_log_probabilities_of_the_joiner() -> None:
    joint = teacher()
    band = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY)
    log_probs = joiner_logits(joint, RANGES).log_softmax(-1)
    for b, (_, _, s_end, t_end) in enumerate(BOUNDARY.tolist()):
        for t in range(t_end):
            for k, s in enumerate(RANGES[b, t].tolist()):
                assert band.blank_BTK[b, t, k].isclose(log_probs[b, t, k, 0])
                if s < s_end:
                    assert band.symbol_BTK[b, t, k].isclose(log_probs[b, t, k, SYMBOLS[b, s]])


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_totals_are_the_transducer_loss_and_its_occupation(rnnt_type: str) -> None:
    joint = teacher()
    totals = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY, rnnt_type).totals()
    loss_B, occupation_BTK = pruned_loss_and_occupation(
        joiner_logits(joint, RANGES), SYMBOLS, RANGES, 0, BOUNDARY, rnnt_type
    )
    torch.testing.assert_close(totals.scores_B, -loss_B)
    torch.testing.assert_close(totals.occupation_BTK, occupation_BTK)


def test_exponents_raise_paths_to_a_power() -> None:
    """At a high one only the best path is left; at one near 0 all paths are alike."""
    band = teacher_band(teacher(), SYMBOLS, RANGES, 0, BOUNDARY)
    best = band.totals(400.0)
    assert best.occupation_BTK is not None
    torch.testing.assert_close(best.occupation_BTK, best.occupation_BTK.round(), rtol=0.0, atol=1e-6)
    torch.testing.assert_close(best.occupation_BTK.sum((1, 2)), torch.tensor([8.0, 6.0]).double())
    even = band.totals(1e-9)
    assert even.occupation_BTK is not None
    # First utterance: frame 1 is left from state 1 (2 ways there, 6 on) or from state 2 (3 ways, 3 on).
    counts = torch.tensor([2 * 6 + 3 * 3, 10 - 1]).double()
    torch.testing.assert_close(even.scores_B.exp(), counts)
    used = even.occupation_BTK * counts[:, None, None]
    torch.testing.assert_close(used, used.round(), rtol=0.0, atol=1e-6)


def test_nothing_of_the_teacher_gets_a_gradient() -> None:
    joint = Joint(*(x.requires_grad_() for x in teacher()))
    band = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY)
    assert not band.symbol_BTK.requires_grad and not band.blank_BTK.requires_grad


def test_half_precision_inputs_give_float32_scores() -> None:
    joint = Joint(*(x.bfloat16() for x in teacher()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        band = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY)
        totals = band.totals()
    assert band.symbol_BTK.dtype == band.blank_BTK.dtype == totals.scores_B.dtype == torch.float32
    exact = teacher_band(teacher(), SYMBOLS, RANGES, 0, BOUNDARY).totals()
    torch.testing.assert_close(totals.scores_B, exact.scores_B.float(), rtol=0.05, atol=0.0)


def test_the_joiner_runs_in_its_inputs_type_under_autocast() -> None:
    joint = Joint(*(x.float() for x in teacher()))
    expected = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        band = teacher_band(joint, SYMBOLS, RANGES, 0, BOUNDARY)
    torch.testing.assert_close(band.blank_BTK, expected.blank_BTK)


def test_a_band_that_no_path_fits() -> None:
    beyond = torch.arange(2).expand(2, 5, 2)
    totals = teacher_band(teacher(), SYMBOLS, beyond, 0, BOUNDARY).totals()
    assert totals.scores_B.isneginf().all()
    assert totals.occupation_BTK is not None and not totals.occupation_BTK.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_V": torch.zeros(4)}, r"bias \(4,\): expected \(5,\)"),
        ({"am_BTD": torch.zeros(2, 6, 6)}, r"am \(2, 6, 6\) .* with ranges \(2, 5, 3\)"),
        ({"weight_VD": torch.zeros(4, 6), "bias_V": torch.zeros(4)}, r"symbols\[0, 2\] is 4"),
        ({"lm_BSD": torch.zeros(2, 3, 6)}, r"symbols \(2, 3\): expected \(2, 2\)"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_band(teacher(**changes), SYMBOLS, RANGES, 0, BOUNDARY)
