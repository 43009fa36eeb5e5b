"""What training does to Zipformer2: by chance, on a schedule, and without losing its place."""

import copy

import pytest
import torch
from torch import nn

from kdasr.distillation.objective import Objective
from kdasr.distillation.step import StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.encoders.zipformer2 import attention
from kdasr.models.encoders.zipformer2.attention import by_key
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder
from kdasr.models.encoders.zipformer2.front_end import pointwise
from kdasr.models.encoders.zipformer2.random_parts import TimeDropout, channel_mask
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.nn.schedule import Clock
from kdasr.testing import dummy_batch, tiny_model
from zipformer2_models import small_config

CONTEXT = Context(left=4, chunk=2)


def encoder() -> Zipformer2Encoder:
    torch.manual_seed(2)
    return small_config().build(80).train()


def run(model: Zipformer2Encoder, seed: int, context: Context = CONTEXT) -> torch.Tensor:
    torch.manual_seed(seed)
    return model(torch.randn(3, 61, 80) - 5, torch.tensor([61, 50, 40]), context).encoded_BTD


def test_every_weight_learns_from_a_teacher_of_another_kind() -> None:
    """In chunks, with the losses of distillation; what is left out by chance takes no weight away."""
    config = TransducerConfig(
        vocab_size=11, encoder=small_config(), predictor=StatelessConfig(dim=16), joiner_dim=16
    )
    torch.manual_seed(4)
    student, batch = build_transducer(config), dummy_batch()
    objective = Objective(ObjectiveConfig(), config, TransducerTeacher(tiny_model(), Context.full()))
    terms = {"rnnt": 1.0, "ctc": 1.0, "hidden_mse": 1.0, "output_kl": 1.0}
    for _ in range(2):
        losses = objective(student, StepInput(batch, loss_weights=terms, context=CONTEXT, step=1000))
        losses.total.backward()
    assert all(value.isfinite() for value in losses.terms.values())
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name


def test_schedules_go_on_with_the_speech_and_resume_with_the_weights() -> None:
    model = encoder()
    run(model, 0)
    assert int(model.trained_frames) == 3 * 61 and model.clock.batches == pytest.approx(3 * 61 / 60_000)
    model.eval()
    run(model, 0)
    assert int(model.trained_frames) == 3 * 61
    state = {**model.state_dict(), "trained_frames": torch.tensor(4000 * 60_000)}
    resumed = encoder()
    resumed.load_state_dict(state)
    assert resumed.clock.batches == 4000
    layer = resumed.stacks[0].layers[0]  # type: ignore[index]
    assert layer.attention_skip_rate() == pytest.approx(0.05)
    copied = copy.deepcopy(resumed)
    copied.clock.batches = 16_000.0
    assert copied.stacks[0].layers[0].attention_skip_rate() == 0.0  # type: ignore[index]
    assert layer.attention_skip_rate() == pytest.approx(0.05)


def test_training_is_random_and_its_random_numbers_are_torchs() -> None:
    first, again, other = run(encoder(), 1), run(encoder(), 1), run(encoder().eval(), 1)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("context", [CONTEXT, Context.full()], ids=str)
def test_large_scores_are_pulled_back_as_far_as_in_a_sum_over_frames(
    monkeypatch: pytest.MonkeyPatch, context: Context
) -> None:
    """By 1e-4 where the loss is a sum: the same share of the gradient as of a mean over encoded frames."""
    penalties: list[float] = []

    def penalized(_: torch.Tensor, grad: torch.Tensor, __: float, penalty: float) -> torch.Tensor:
        penalties.append(penalty)
        return grad

    monkeypatch.setattr(attention, "penalized_gradient", penalized)
    monkeypatch.setattr(attention, "PENALTY_PROBABILITY", 1.0)
    encoded_BUD = run(encoder(), 1, context)
    encoded_BUD.mean().backward()
    num_frames = encoded_BUD.shape[0] * encoded_BUD.shape[1]
    assert penalties == pytest.approx([1e-4 / num_frames] * 4, rel=0.15)  # whole groups of frames


def test_scores_of_distances_are_found_by_query_and_key() -> None:
    """That of query i and key j is at place j - i + W - 1; without a gradient, and with its own."""
    torch.manual_seed(0)
    for num_queries, num_keys in [(5, 5), (3, 7), (1, 4)]:
        scores = torch.randn(2, 3, num_queries, num_keys + num_queries - 1, dtype=torch.float64)
        keys = scores.new_empty(2, 3, num_queries, num_keys)
        places = torch.arange(num_keys) - torch.arange(num_queries)[:, None] + num_queries - 1
        expected = scores.gather(3, places.expand_as(keys))
        assert torch.equal(by_key(scores, keys), expected)
        scores, keys = scores.transpose(0, 1).requires_grad_(), keys.transpose(0, 1)
        assert torch.equal(by_key(scores, keys), expected.transpose(0, 1))
        assert torch.autograd.gradcheck(by_key, (scores, keys))


def test_a_convolution_of_one_tap_is_the_same_in_training() -> None:
    conv, x = nn.Conv2d(5, 7, 1), torch.randn(2, 5, 4, 3, requires_grad=True)
    parameters = (x, conv.weight, conv.bias)
    weight = torch.randn(2, 7, 4, 3)
    expected, found = (pointwise(x, conv.train(mode)) for mode in (False, True))
    torch.testing.assert_close(found, expected)
    for a, b in zip(
        torch.autograd.grad(expected, parameters, weight),
        torch.autograd.grad(found, parameters, weight),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_dropout_takes_a_channel_of_an_utterance_at_all_times() -> None:
    torch.manual_seed(0)
    dropout = TimeDropout(Clock().ramp((0, 0.25)))
    kept_BTD = dropout(torch.ones(50, 4, 40))
    assert torch.equal(kept_BTD, kept_BTD[:, :1].expand_as(kept_BTD))
    assert kept_BTD.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(kept_BTD.mean()) == pytest.approx(1.0, abs=0.05)


def test_channels_are_masked_in_two_groups_that_training_may_lose() -> None:
    torch.manual_seed(0)
    mask_BD = channel_mask(torch.ones(4000, 9, 12), 5).squeeze(1)  # type: ignore[union-attr]
    shares_D = mask_BD.mean(dim=0)
    assert shares_D[:5].tolist() == [1.0] * 5
    assert shares_D[5:8].unique().tolist() == [pytest.approx(0.875, abs=0.02)]
    assert shares_D[8:].unique().tolist() == [pytest.approx(0.766, abs=0.02)]
    assert bool((mask_BD[:, 8:] <= mask_BD[:, 5:6]).all())
    assert channel_mask(torch.ones(2, 3, 12), 12) is None


def test_a_layer_that_is_skipped_passes_its_input_on() -> None:
    model = encoder()
    layer = model.stacks[0].layers[0]  # type: ignore[index]
    layer.bypass.skip_rate = model.clock.ramp((0, 1.0))
    seen: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _module, inputs, output: seen.extend([inputs[0], output[0]]))
    run(model, 0)
    assert torch.equal(seen[0], seen[1])


def test_balancers_see_what_a_module_gives_and_not_what_is_left_out() -> None:
    """Zeros of utterances that skip a module say nothing of it."""
    model = encoder()
    layer = model.stacks[0].layers[0]  # type: ignore[index]
    always = model.clock.ramp((0, 1.0))
    layer.attention_skip_rate = layer.feed_forward2_skip_rate = layer.feed_forward3_skip_rate = always
    seen: list[torch.Tensor] = []
    for balancer in (layer.nonlin_balancer, layer.feed_forward2_balancer, layer.feed_forward3_balancer):
        balancer.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    run(model, 0)
    assert len(seen) == 3 and all(bool(part.any()) for part in seen)


def test_the_layers_begin_near_the_identity() -> None:
    """So that a deep stack trains from its first step: modules start with small outputs."""
    model = encoder().eval()
    layer = model.stacks[1].layers[0]  # type: ignore[index]
    for part in (layer.attention1, layer.nonlin_attention, layer.convolution1, layer.feed_forward1):
        assert part.output.weight.abs().max() < 0.1
        assert part.output.bias.abs().max() < 0.011
