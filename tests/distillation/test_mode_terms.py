"""A student that is run in two modes: `rnnt_full`, `ctc_full` and `mode_kl`."""

# Shapes: B utterances, T encoder frames, S pieces, D width, V pieces of the vocabulary.

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_system import random_batch, small_config, small_model
from torch import Tensor
from torch.nn import functional

from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.step import Losses, StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.distillation.terms.mode_kl import CLASSES, NODE_WEIGHTS, ModeKlConfig
from kdasr.distillation.terms.output_kl import OutputConfig
from kdasr.models.encoders.base import EncoderOutput
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch
from zipformer2_models import small_config as small_zipformer2

CHUNKED = Context(left=4, chunk=4)


def objective(prune_range: int = 3, teacher: Any = None, output: Any = None, **options: Any) -> Objective:
    config = ObjectiveConfig(rnnt=RnntConfig(backend="native", prune_range=prune_range, warmup_steps=0))
    config = replace(config, mode_kl=ModeKlConfig(**options), output=output or OutputConfig())  # type: ignore[call-arg]
    return Objective(config, small_config(), teacher)


def losses(
    of: Objective, model: Transducer, context: Context, step: int = 1000, **loss_weights: float
) -> Losses:
    inputs = StepInput(random_batch(3), loss_weights=loss_weights, context=context, step=step)
    return of(model, inputs)


class TwoModes:
    """A model whose two modes are given, as leaves of the graph."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = small_model().double()
        batch = random_batch(3)
        with torch.no_grad():
            frames = [
                self.model.encode(batch.features_BTF.double(), batch.feature_lens_B, context)
                for context in (CHUNKED, Context.full())
            ]
        self.lens_B = frames[0].lens_B
        # Far from each other, and sharp.
        self.own_BTD, self.full_BTD = (4.0 * frame.encoded_BTD for frame in frames)
        for frames_BTD in (self.own_BTD, self.full_BTD):
            frames_BTD.requires_grad_()
        self.model.joiner.output.weight.data.mul_(8.0)

        def encode(features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
            chosen_BTD = self.full_BTD if context.is_full else self.own_BTD
            return EncoderOutput(chosen_BTD, self.lens_B, [])

        monkeypatch.setattr(self.model, "encode", encode)

    def value(self, of: Objective) -> Tensor:
        return losses(of, self.model, CHUNKED, mode_kl=1.0).total


@pytest.fixture
def two_modes(monkeypatch: pytest.MonkeyPatch) -> TwoModes:
    return TwoModes(monkeypatch)


def dense(two: TwoModes) -> Tensor:
    """The symmetric term over all states, written the long way; a mean over nodes, then over utterances."""
    batch, model = random_batch(3), two.model
    predicted_BSD = model.predictor(batch.tokens_BS)

    def log_probs(frames_BTD: Tensor) -> Tensor:
        hidden = model.joiner.project_encoder(frames_BTD)[:, :, None]
        hidden = torch.tanh(hidden + model.joiner.project_predictor(predicted_BSD)[:, None])
        return model.joiner.output(hidden).log_softmax(-1)

    own, full = log_probs(two.own_BTD), log_probs(two.full_BTD)
    values = []
    for b, (frames, pieces) in enumerate(zip(two.lens_B, batch.token_lens_B, strict=True)):
        p, q = own[b, :frames, : pieces + 1], full[b, :frames, : pieces + 1]
        both = [
            functional.kl_div(*pair, reduction="none", log_target=True)
            for pair in ((p, q.detach()), (q, p.detach()))
        ]
        values.append(0.5 * (both[0] + both[1]).sum(-1).mean())
    return torch.stack(values).mean()


def test_over_all_states_the_agreement_is_the_plain_symmetric_mean(two_modes: TwoModes) -> None:
    value = two_modes.value(objective(prune_range=7))
    expected = dense(two_modes)
    torch.testing.assert_close(value, expected)
    assert value > 0.01
    leaves = two_modes.own_BTD, two_modes.full_BTD, two_modes.model.joiner.output.weight
    for found, wanted in zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("learner", ["own", "full"])
@pytest.mark.parametrize(("classes", "node_weights"), [("full", "uniform"), ("collapsed", "nonblank")])
def test_a_direction_has_the_slope_of_its_value_and_leaves_its_target_alone(
    two_modes: TwoModes, learner: str, classes: str, node_weights: str
) -> None:
    of = objective(learner=learner, classes=classes)
    learning, target = two_modes.own_BTD, two_modes.full_BTD
    if learner == "full":
        learning, target = target, learning
    found, untouched = torch.autograd.grad(two_modes.value(of), (learning, target), allow_unused=True)
    assert untouched is None or not untouched.any()
    direction = torch.randn(learning.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ends = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            learning.add_(sign * 1e-5 * direction)
            ends.append(float(two_modes.value(of)))
            learning.sub_(sign * 1e-5 * direction)
    slope = (ends[0] - ends[1]) / 2e-5
    assert abs(slope) > 1e-4
    assert float((found * direction).sum()) == pytest.approx(slope, rel=1e-4)
    symmetric = torch.autograd.grad(two_modes.value(objective(classes=classes)), learning)[0]
    torch.testing.assert_close(symmetric, found)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("node_weights", NODE_WEIGHTS)
def test_equal_modes_agree(classes: str, node_weights: str) -> None:
    of, model = objective(classes=classes, node_weights=node_weights), small_model()
    whole, weights = (
        Context.full(),
        {"rnnt": 1.0, "rnnt_full": 1.0, "ctc": 1.0, "ctc_full": 1.0, "mode_kl": 1.0},
    )
    equal = losses(of, model, whole, **weights).terms
    assert float(equal["mode_kl"]) == pytest.approx(0.0, abs=1e-6)
    for name in ("rnnt", "ctc"):
        torch.testing.assert_close(equal[name], equal[f"{name}_full"])
    other = losses(of, model, CHUNKED, **weights).terms
    assert other["mode_kl"] > 1e-5
    for name in ("rnnt_full", "ctc_full"):
        torch.testing.assert_close(other[name], equal[name])
        assert not torch.isclose(other[name], other[name.removesuffix("_full")])


@pytest.mark.parametrize(
    ("learner", "shift", "node_weights", "classes"),
    [
        ("own", 0, "uniform", "full"),
        ("own", 0, "occupation", "collapsed"),
        ("own", 2, "uniform", "full"),
        ("full", 2, "occupation", "full"),
    ],
)
def test_a_direction_is_output_kl_with_the_other_mode_as_the_teacher(
    learner: str, shift: int, node_weights: str, classes: str
) -> None:
    settings = {"node_weights": node_weights, "classes": classes}
    of_learner, of_teacher = (CHUNKED, Context.full())[:: 1 if learner == "own" else -1]
    frozen = TransducerTeacher(small_model(), of_teacher)
    # A full mode that waits for a later one hears it earlier.
    output = OutputConfig("fixed", 1.0, shift=shift if learner == "own" else -shift, **settings)
    of = objective(teacher=frozen, output=output, learner=learner, shift=shift, **settings)

    def gradient(**loss_weights: float) -> tuple[Tensor, Tensor]:
        model = small_model()
        found = losses(of, model, CHUNKED if "mode_kl" in loss_weights else of_learner, **loss_weights)
        found.total.backward()
        return found.total.detach(), torch.cat(
            [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        )

    for ours, theirs in zip(gradient(mode_kl=2.0), gradient(output_kl=1.0), strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-8)


def test_agreement_starts_after_its_warm_steps() -> None:
    of, model = objective(start_step=10), small_model()
    late, early = (losses(of, model, CHUNKED, step=step, mode_kl=1.0).total for step in (10, 9))
    assert late > 0 and early == 0
    early.backward()
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_predictions_are_made_once_and_every_part_of_the_objective_adds_up() -> None:
    of, model = objective(), small_model()
    calls = []
    model.predictor.register_forward_hook(lambda *_: calls.append(1))
    weights = {"rnnt": 0.5, "rnnt_full": 0.5, "ctc_full": 0.1, "mode_kl": 0.3}
    found = losses(of, model, CHUNKED, **weights)
    assert len(calls) == 1
    torch.testing.assert_close(
        found.total, sum(weight * found.terms[name] for name, weight in weights.items())
    )
    assert found.per_frame == {"rnnt", "rnnt_simple", "rnnt_pruned", "rnnt_full", "ctc_full"}


def test_a_batch_that_is_heard_in_two_modes_counts_once_for_the_schedules_of_zipformer2() -> None:
    torch.manual_seed(0)
    config = replace(small_config(), num_features=80, encoder=small_zipformer2())
    model = build_transducer(config).train()
    of = Objective(ObjectiveConfig(rnnt=RnntConfig(backend="native")), config, None)
    batch = dummy_batch(max_frames=90)
    inputs = StepInput(
        batch, loss_weights={"rnnt": 1.0, "mode_kl": 0.3}, context=Context(left=8, chunk=4), step=0
    )
    of(model, inputs).total.backward()
    assert int(model.encoder.trained_frames) == batch.features_BTF.shape[0] * batch.features_BTF.shape[1]
