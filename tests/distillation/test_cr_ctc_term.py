"""Two masked copies of a batch: `cr_ctc` and the losses of the second copy."""

# Shapes: B utterances, T frames, V pieces.

from dataclasses import replace

import pytest
import torch
from tiny_system import CHUNKED, random_batch, small_config, small_model
from torch import Tensor

from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.step import Losses, StepInput
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.losses.consistency import ctc_consistency

LENS_B = torch.tensor([4, 2, 0])
OBJECTIVE = Objective(
    ObjectiveConfig(rnnt=RnntConfig(backend="native", warmup_steps=0)), small_config(), None
)


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_consistency_is_the_plain_sum_and_has_its_slope() -> None:
    own, target = logits(0).requires_grad_(), logits(1).requires_grad_()
    found = ctc_consistency(own, target, LENS_B)
    for b, frames in enumerate(LENS_B.tolist()):
        p, q = target[b, :frames].softmax(1), own[b, :frames].softmax(1)
        torch.testing.assert_close(found[b], (p * (p / q).log()).sum())
    assert not ctc_consistency(own, own, LENS_B).any()
    found.sum().backward()
    assert (
        target.grad is None and own.grad is not None and not own.grad[1, 2:].any() and not own.grad[2].any()
    )
    # The slope of a cross entropy: ours minus the target's.
    torch.testing.assert_close(own.grad[0], (own.softmax(2) - target.softmax(2))[0].detach())
    with pytest.raises(ValueError, match="differ in shape"):
        ctc_consistency(own, target[:, 1:], LENS_B)


def losses(model: torch.nn.Module, second: int | None, **loss_weights: float) -> Losses:
    batch = random_batch(1)
    if second is not None:
        batch = replace(batch, teacher_features_BTF=random_batch(second).features_BTF)
    return OBJECTIVE(model, StepInput(batch, loss_weights=loss_weights, context=CHUNKED, step=0))


def test_copies_agree_with_themselves_and_change_places() -> None:
    model, weights = small_model(), {"cr_ctc": 1.0, "ctc": 1.0, "ctc_remasked": 1.0, "rnnt_remasked": 1.0}
    same = losses(model, None, rnnt=1.0, **weights).terms
    assert float(same["cr_ctc"]) == pytest.approx(0.0, abs=1e-7)
    torch.testing.assert_close(same["ctc"], same["ctc_remasked"])
    torch.testing.assert_close(same["rnnt"], same["rnnt_remasked"])
    apart = losses(model, 2, **weights).terms
    assert apart["cr_ctc"] > 1e-4 and not torch.isclose(apart["ctc"], apart["ctc_remasked"])
    # The mean of both directions does not know which copy is the first.
    first, second = random_batch(1).features_BTF, random_batch(2).features_BTF
    turned = replace(random_batch(1), features_BTF=second, teacher_features_BTF=first)
    inputs = StepInput(turned, loss_weights=weights, context=CHUNKED, step=0)
    found = OBJECTIVE(model, inputs).terms
    torch.testing.assert_close(found["cr_ctc"], apart["cr_ctc"])
    torch.testing.assert_close(found["ctc"], apart["ctc_remasked"])


def test_both_copies_learn() -> None:
    model = small_model()
    losses(model, 2, cr_ctc=1.0).total.backward()
    head = model.ctc_head.weight.grad
    assert head is not None and head.any()
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())
