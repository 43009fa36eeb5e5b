"""icefall's own checkpoints: every head, the running mean, the gradients, and the schedules of training."""

# Shapes: B utterances, U encoded frames, S pieces, V classes, D width.

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from icefall_data import FOLDER, TOLERANCE, arrays, golden, needs_icefall, weights
from kdasr.bundle import load_bundle
from kdasr.interop.icefall import ImportOptions, converted, import_icefall
from kdasr.interop.icefall_checkpoint import averaged_since, read_icefall
from kdasr.interop.icefall_names import icefall_name
from kdasr.interop.icefall_sizes import transducer_config
from kdasr.models.encoders.zipformer2 import encoder as encoder_module
from kdasr.models.predictors.base import LastPieces
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.schedule import Ramp

pytestmark = needs_icefall
HEADS = {"query_head_dim": "8"}


def model_of(kind: str, given: dict[str, Tensor] | None = None) -> Transducer:
    """Ours, with padding as in icefall's batches."""
    given = given or weights(kind)
    config = transducer_config(given, HEADS, kind)
    config.encoder.padding = "batch"  # type: ignore[attr-defined]
    model = build_transducer(config).eval()
    model.load_state_dict(converted(given, config, kind)[0])
    return model


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("kind", ["offline", "streaming"])
@torch.no_grad()
def test_all_heads_give_what_icefalls_give(kind: str) -> None:
    data, model = golden(kind), model_of(kind)
    encoded_BUD = model.encode(data["features"], data["feature_lens"], Context.full()).encoded_BTD
    close(encoded_BUD, data["full.encoder_out"])
    close(model.predictor.predict(LastPieces(data["decoder.ctx"])), data["decoder.ctx_out"].squeeze(1))
    predicted_BSD = model.predictor(data["decoder.y"][:, 1:])
    close(predicted_BSD, data["decoder.y_out"])
    joiner = model.joiner
    close(joiner.project_encoder(encoded_BUD), data["joiner.encoder_proj"])
    close(joiner.project_predictor(predicted_BSD), data["joiner.decoder_proj"])
    frames = joiner.project_encoder(encoded_BUD[:, 0:11:2]).unsqueeze(2)
    logits = joiner(frames, joiner.project_predictor(predicted_BSD[:, :5]).unsqueeze(1))
    close(logits, data["joiner.logits_grid"])
    close(model.simple_am(encoded_BUD), data["simple_am_proj"])
    close(model.simple_lm(predicted_BSD), data["simple_lm_proj"])
    close(model.ctc_head(encoded_BUD).log_softmax(dim=-1), data["ctc_output"])


@torch.no_grad()
def test_a_training_of_icefalls_is_read_with_its_running_mean(tmp_path: Path) -> None:
    """The same file without a batch before it is the mean since the start."""
    data, checkpoint = golden("streaming"), read_icefall(FOLDER / "zipformer-streaming" / "epoch-1.pt")
    assert checkpoint.average is not None and checkpoint.options["batch_idx_train"] == 604
    assert all(torch.equal(value, weights("streaming")[name]) for name, value in checkpoint.weights.items())
    model = model_of("streaming", checkpoint.average)
    found = model.encode(data["features"], data["feature_lens"], Context.full()).encoded_BTD
    close(found, data["epoch1_model_avg.full.encoder_out"])
    with pytest.raises(Exception, match="not later than"):
        averaged_since(checkpoint, checkpoint)
    options = ImportOptions(
        checkpoint=checkpoint.path, tokens=FOLDER / "lang_bpe_37", out=tmp_path / "teacher"
    )
    imported = import_icefall(options)
    assert (imported.unused, imported.missing, imported.assumed) == ([], [], [])
    bundle = load_bundle(options.out)
    assert bundle.tokenizer.vocab_size == 37 and bundle.context == Context(64, 8)
    stacks = bundle.model.config.encoder.stacks  # type: ignore[attr-defined]
    assert [stack.unmasked_dim for stack in stacks] == [16, 16, 24, 32, 24, 16]


@pytest.mark.parametrize(
    ("kind", "name", "context"),
    [("streaming", "grad_causal", Context(32, 8)), ("offline", "grad_offline", Context.full())],
)
def test_gradients_are_icefalls(
    kind: str, name: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a loss that reaches every weight; what is behind the end of an utterance is not silence there."""
    monkeypatch.setattr(encoder_module, "_silenced", lambda features_BTF, _: features_BTF)
    data, model = arrays("training"), model_of(kind)
    features_BTF = golden(kind)["features"][:, :161]
    encoded_BUD = model.encode(features_BTF, torch.tensor([161, 140]), context).encoded_BTD
    predicted_BSD = model.predictor(torch.tensor([[5, 9, 30], [8, 8, 20]]))
    joiner = model.joiner
    logits = joiner(
        joiner.project_encoder(encoded_BUD[:, ::6]).unsqueeze(2),
        joiner.project_predictor(predicted_BSD).unsqueeze(1),
    )
    waves = torch.cos(0.37 * torch.arange(encoded_BUD.numel())).view_as(encoded_BUD)
    loss = 0.01 * (encoded_BUD * waves).sum()
    for scale, values, index in [
        (0.1, logits, 3),
        (0.01, model.simple_am(encoded_BUD), 2),
        (0.1, model.simple_lm(predicted_BSD), 7),
        (0.01, model.ctc_head(encoded_BUD), 4),
    ]:
        loss = loss - scale * values.log_softmax(dim=-1)[..., index].sum()
    loss.backward()
    assert float(loss) == pytest.approx(float(data[f"{name}.loss"]), rel=1e-4)
    expected = dict(zip(data[f"{name}.names"].tolist(), data[f"{name}.norm_and_sum"].tolist(), strict=True))
    factors = model.config.encoder.downsampling_factor  # type: ignore[attr-defined]
    checked = 0
    for ours, parameter in model.encoder.named_parameters():
        theirs = icefall_name(ours, factors)
        assert parameter.grad is not None
        norm, total = expected[theirs]
        assert float(parameter.grad.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-5), theirs
        assert float(parameter.grad.double().sum()) == pytest.approx(
            total, abs=2e-3 * norm * math.sqrt(parameter.numel()) + 1e-5
        ), theirs
        if f"{name}.full.{theirs}" in data:
            torch.testing.assert_close(parameter.grad, data[f"{name}.full.{theirs}"], atol=2e-4, rtol=1e-3)
            checked += 1
    assert checked >= 5


RAMPS = {
    "attention_skip_rate": "attention_skip_rate",
    "conv_skip_rate": "convolution_skip_rate",
    "ff2_skip_rate": "feed_forward2_skip_rate",
    "ff3_skip_rate": "feed_forward3_skip_rate",
    "const_attention_rate": "constant_attention_rate",
    "self_attn_weights.pos_emb_skip_rate": "attention_weights.position_skip_rate",
    "self_attn_weights.whiten_keys.whitening_limit": "attention_weights.key_whiten.limit",
    "nonlin_attention.whiten1.whitening_limit": "nonlin_attention.value_whiten.limit",
    "nonlin_attention.whiten2.whitening_limit": "nonlin_attention.whiten.limit",
    "nonlin_attention.balancer.": "nonlin_attention.balancer.",
    "bypass.scale_min": "bypass.least",
    "bypass_mid.scale_min": "bypass_middle.least",
    "bypass.skip_rate": "bypass.skip_rate",
    "whiten.whitening_limit": "whiten.limit",
    "balancer1.": "norm_balancer.",
    "balancer2.": "balancer.",
    "balancer_na.": "nonlin_balancer.",
    "balancer_ff2.": "feed_forward2_balancer.",
    "balancer_ff3.": "feed_forward3_balancer.",
}
for number in (1, 2, 3):
    RAMPS[f"feed_forward{number}.hidden_balancer."] = f"feed_forward{number}.balancer."
    RAMPS[f"feed_forward{number}.out_proj.dropout_p"] = f"feed_forward{number}.dropout.rate"
    RAMPS[f"feed_forward{number}.out_whiten.whitening_limit"] = f"feed_forward{number}.whiten.limit"
for number in (1, 2):
    RAMPS[f"self_attn{number}.whiten.whitening_limit"] = f"attention{number}.whiten.limit"
    RAMPS[f"conv_module{number}.balancer1."] = f"convolution{number}.gate_balancer."
    RAMPS[f"conv_module{number}.balancer2."] = f"convolution{number}.balancer."
    RAMPS[f"conv_module{number}.whiten.whitening_limit"] = f"convolution{number}.whiten.limit"
FRONT_RAMPS = {
    "conv.2.prob": "balancers.0.probability",
    "conv.5.prob": "balancers.1.probability",
    "conv.8.prob": "balancers.2.probability",
    "convnext.layerdrop_rate": "skip_rate",
    "convnext.hidden_balancer.prob": "hidden_balancer.probability",
    "convnext.out_balancer.prob": "mixed_balancer.probability",
    "out_whiten.whitening_limit": "whiten.limit",
    "dropout.p": "dropout.rate",
}
UNUSED = {"encoder.downsample_output.dropout"} | {
    f"encoder.encoders.{stack}.downsample.dropout" for stack in range(6)
}


def our_ramp(encoder: nn.Module, name: str) -> Ramp:
    """Ours of a schedule with icefall's name."""
    if name.startswith("encoder_embed."):
        return attribute(encoder.front_end, FRONT_RAMPS[name.removeprefix("encoder_embed.")])
    parts = name.removeprefix("encoder.encoders.").split(".")
    stack = encoder.stacks[int(parts.pop(0))]  # type: ignore[index,operator]
    if parts[0] == "out_combiner":
        return attribute(stack, "combine.least")
    parts = parts[1:] if parts[0] == "encoder" else parts
    rest = ".".join(parts[2:])
    theirs = max((prefix for prefix in RAMPS if rest.startswith(prefix)), key=len)
    last = rest.removeprefix(theirs)
    return attribute(stack.layers[int(parts[1])], RAMPS[theirs] + ("probability" if last == "prob" else last))


def attribute(module: Any, path: str) -> Any:
    for part in path.split("."):
        module = getattr(module, part)
    return module


def test_every_schedule_is_icefalls() -> None:
    data, encoder = arrays("training"), model_of("streaming").encoder
    columns = data["schedule.values"].T.tolist()
    seen: set[int] = set()
    for name, values in zip(data["schedule.names"].tolist(), columns, strict=True):
        if name in UNUSED:
            continue
        first = our_ramp(encoder, name)
        ramps = [first]
        if "feed_forward1.out_proj" in name:  # icefall's three modules of a layer share this one
            others = (name.replace("feed_forward1", f"feed_forward{number}") for number in (2, 3))
            ramps += [our_ramp(encoder, other) for other in others]
        seen |= set(map(id, ramps))
        for batches, value in zip(data["schedule.batch_counts"].tolist(), values, strict=True):
            encoder.clock.batches = batches  # type: ignore[union-attr]
            assert [ramp() for ramp in ramps] == pytest.approx([value] * len(ramps), abs=1e-6), name
    ours = {
        id(value)
        for module in encoder.modules()
        for value in vars(module).values()
        if isinstance(value, Ramp)
    }
    assert ours == seen
