"""The assembled model: configuration, statistics, outputs, gradients, export."""

import dataclasses

import pytest
import torch

from kdasr.common.configio import build_config, config_to_dict
from kdasr.common.errors import UserError
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_config, tiny_model


def test_the_configuration_rebuilds_the_model():
    model = tiny_model(seed=3)
    config = build_config(TransducerConfig, config_to_dict(model.config))
    assert config == model.config
    rebuilt = build_transducer(config)
    rebuilt.load_state_dict(model.state_dict())
    batch = dummy_batch()
    outputs = [
        one.eval()(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context(8, 4, 1))
        for one in (model, rebuilt)
    ]
    assert torch.equal(outputs[0].encoded_BTD, outputs[1].encoded_BTD)
    assert torch.equal(outputs[0].predicted_BSD, outputs[1].predicted_BSD)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"num_features": 6}, "num_features"),
        ({"joiner_dim": 0}, "joiner_dim"),
        ({"encoder": {"num_heads": 3}}, "encoder.dim"),
        ({"encoder": {"dim": 18, "num_heads": 6}}, "even width"),
        ({"encoder": {"num_heads": 0}}, "encoder.num_heads"),
        ({"encoder": {"num_layers": 0}}, "encoder.num_layers"),
        ({"encoder": {"conv_kernel": 4}}, "encoder.conv_kernel"),
        ({"encoder": {"dropout": 1.0}}, "encoder.dropout"),
        ({"predictor": {"context_size": 0}}, "predictor.context_size"),
    ],
)
def test_impossible_sizes_are_named(change, option):
    config = tiny_config()
    for name, value in change.items():
        if isinstance(value, dict):
            value = dataclasses.replace(getattr(config, name), **value)
        config = dataclasses.replace(config, **{name: value})
    with pytest.raises(UserError, match=option):
        build_transducer(config)


def test_statistics_take_out_scale_and_offset():
    model = tiny_model().double().eval()
    mean_F, std_F = torch.randn(80).double(), torch.rand(80).double() + 0.5
    features_BTF, lens_B = torch.randn(2, 50, 80).double(), torch.tensor([50, 30])
    plain = model.encode(features_BTF, lens_B, Context.full()).encoded_BTD
    model.set_feature_stats(mean_F, std_F)
    raw = model.encode(features_BTF * std_F + mean_F, lens_B, Context.full()).encoded_BTD
    assert torch.allclose(raw[0], plain[0], atol=1e-10)
    assert any("mean" in name for name in model.state_dict())
    with pytest.raises(UserError, match="std has shape"):
        model.set_feature_stats(mean_F, std_F[:40])


def test_one_forward_reaches_every_trained_part():
    model = tiny_model()
    batch = dummy_batch()
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, Context(8, 4, 0))
    assert output.predicted_BSD.shape == (3, batch.tokens_BS.shape[1] + 1, 16)
    assert output.lens_B.dtype == torch.int64 and output.lens_B[0] == 16
    joined = model.joiner(
        model.joiner.project_encoder(output.encoded_BTD)[:, :, None],
        model.joiner.project_predictor(output.predicted_BSD)[:, None],
    )
    heads = (model.simple_am(output.encoded_BTD), model.simple_lm(output.predicted_BSD))
    total = joined.square().sum() + sum(head.square().sum() for head in heads)
    (total + model.ctc_head(output.encoded_BTD).square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_chunked_weights_learn_from_the_same_gradient_as_the_stream():
    """Training cuts utterances into blocks; the gradient is that of the model which streams."""
    model = tiny_model().double()
    features_BTF = torch.randn(1, 43, 80, dtype=torch.float64)
    context = Context(6, 3, 1)
    whole = model.encode(features_BTF, torch.tensor([43]), context).encoded_BTD
    wanted = torch.autograd.grad(whole.sin().sum(), list(model.encoder.parameters()))
    state, outputs = model.encoder.init_state(1, context), []
    padded_BTF = torch.nn.functional.pad(features_BTF, (0, 0, 0, 40))
    for start in range(0, 40, 12):
        valid = torch.tensor([min(43 - start, 19)])
        encoded_BCD, lens_B, state = model.encode_chunk(
            padded_BTF[:, start : start + 19], state, context, valid
        )
        outputs.append(encoded_BCD[:, : int(lens_B[0])])
    got = torch.autograd.grad(torch.cat(outputs, dim=1).sin().sum(), list(model.encoder.parameters()))
    for ours, expected in zip(got, wanted, strict=True):
        assert torch.allclose(ours, expected, atol=1e-9)


def test_dropout_follows_the_seed_and_stops_in_evaluation():
    config = tiny_config()
    model = build_transducer(
        dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, dropout=0.3))
    )
    features_BTF, lens_B = torch.randn(1, 50, 80), torch.tensor([50])
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(model.encode(features_BTF, lens_B, Context.full()).encoded_BTD)
    assert torch.equal(outputs[0], outputs[1]) and not torch.allclose(outputs[0], outputs[2])
    model.eval()
    first, second = (model.encode(features_BTF, lens_B, Context.full()).encoded_BTD for _ in range(2))
    assert torch.equal(first, second)


class StepModule(torch.nn.Module):
    """One streaming step as a graph of tensors."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.model, self.context = tiny_model().eval(), context

    def forward(self, window_BWF, state):
        return self.model.encode_chunk(window_BWF, state, self.context)


def test_a_streaming_step_is_a_graph():
    """No Python decision depends on the data: the traced step serves other streams."""
    context = Context(4, 3, 1)
    step = StepModule(context)
    young = step.model.encoder.init_state(2, context)
    with torch.no_grad():
        program = torch.export.export(step, (torch.randn(2, 19, 80), young)).module()
        *_, older = step(torch.randn(2, 19, 80), young)
        window_BWF = torch.randn(2, 19, 80)
        ours, expected = program(window_BWF, older), step(window_BWF, older)
    assert torch.allclose(ours[0], expected[0], atol=1e-5)
    assert torch.equal(ours[2].processed_B, expected[2].processed_B)


@pytest.mark.parametrize("context", [Context.full(), Context(8, 4, 2)], ids=str)
def test_mixed_precision_trains_and_stays_close(context):
    model = tiny_model()
    features_BTF, lens_B = torch.randn(2, 67, 80), torch.tensor([67, 40])
    expected = model.encode(features_BTF, lens_B, context).encoded_BTD
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded_BTD = model.encode(features_BTF, lens_B, context).encoded_BTD
    assert torch.allclose(encoded_BTD[0].float(), expected[0], atol=0.15)
    encoded_BTD.float().square().sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
