from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.distillation import lattice
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.step import Denominators, Losses, StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.distillation.terms.auxiliary import AuxiliaryConfig
from kdasr.distillation.terms.base import known_terms
from kdasr.distillation.terms.hidden_mse import HiddenConfig, HiddenTerm
from kdasr.distillation.terms.output_kl import OutputConfig
from kdasr.distillation.terms.rnnt import rnnt_term
from kdasr.losses.lattice.node_weights import NODE_WEIGHTS
from kdasr.losses.pruned_rnnt import select_backend
from kdasr.losses.pruned_rnnt.backend import NATIVE
from kdasr.models.encoders.base import EncoderConfig
from kdasr.models.encoders.fast_conformer import FastConformerConfig
from kdasr.models.encoders.tiny import tiny_encoder
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context
from kdasr.nn.subsampling import subsampled_length
from kdasr.testing import dummy_batch, tiny_config, tiny_model
from zipformer2_models import small_config

STREAMING = Context(left=4, chunk=2)
ALL_TERMS = {"rnnt": 1.0, "ctc": 0.3, "hidden_mse": 2.0, "output_kl": 0.5}


def native(**options: object) -> RnntConfig:
    return RnntConfig(backend="native", warmup_steps=100, **options)  # type: ignore[arg-type]


def make_objective(
    output: OutputConfig | None = None,
    hidden: HiddenConfig | None = None,
    rnnt: RnntConfig | None = None,
    teacher: Transducer | None = None,
    student: TransducerConfig | None = None,
) -> Objective:
    config = ObjectiveConfig(
        rnnt=rnnt or native(), hidden=hidden or HiddenConfig(), output=output or OutputConfig()
    )
    frozen = TransducerTeacher(teacher or tiny_model(seed=1), Context.full())
    return Objective(config, student or tiny_config(), frozen)


def compute(
    objective: Objective,
    model: Transducer,
    batch: Batch,
    weights: dict[str, float] | None = None,
    step: int = 1000,
    context: Context = STREAMING,
) -> Losses:
    return objective(model, StepInput(batch, loss_weights=weights or ALL_TERMS, context=context, step=step))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@contextmanager
def forbidden(*modules: nn.Module) -> Iterator[None]:
    """Calling one of the modules, or of their parts, raises."""

    def refuse(module: nn.Module, _: object) -> None:
        raise AssertionError(f"{type(module).__name__} was called")

    handles = [part.register_forward_pre_hook(refuse) for module in modules for part in module.modules()]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("rule", ["fixed", "entropy", "confidence"])
@pytest.mark.parametrize("granularity", ["node", "utterance"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "symmetric"])
@pytest.mark.parametrize("classes", ["full", "collapsed"])
@pytest.mark.parametrize("node_weights", ["uniform", "both"])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(
    rule: str, granularity: str, direction: str, node_weights: str, classes: str
) -> None:
    output = OutputConfig(
        rule=rule,
        exponent=0.7,
        granularity=granularity,
        direction=direction,
        node_weights=node_weights,
        classes=classes,
        entropy_floor=2.0,
    )
    objective = make_objective(output, teacher=tiny_model(seed=0))
    model, batch = tiny_model(seed=0), dummy_batch()
    weights = {"hidden_mse": 1.0, "output_kl": 1.0}
    losses = compute(objective, model, batch, weights, context=Context.full())
    assert losses.terms["hidden_mse"] == 0
    assert abs(losses.terms["output_kl"]) < 1e-6
    other = compute(objective, tiny_model(seed=5), batch, weights)
    assert (other.per_utterance["hidden_mse"] > 0.01).all()
    assert (other.per_utterance["output_kl"] > 0.001).all()


def confident_teacher() -> Transducer:
    """Random, but sure of itself, so that the entropy rule has something to smooth."""
    teacher = tiny_model(seed=1)
    with torch.no_grad():
        teacher.joiner.output.weight *= 30.0
    return teacher


def padded_differently(batch: Batch) -> Batch:
    """The same utterances among more, and other, padding."""
    noise = dummy_batch(seed=9, max_frames=90, max_tokens=9, padding=-8.0)
    features_BTF, tokens_BS = noise.features_BTF.clone(), noise.tokens_BS.clone()
    for i, (frames, pieces) in enumerate(zip(batch.feature_lens_B, batch.token_lens_B, strict=True)):
        features_BTF[i, :frames] = batch.features_BTF[i, :frames]
        tokens_BS[i, :pieces] = batch.tokens_BS[i, :pieces]
    return replace(batch, features_BTF=features_BTF, tokens_BS=tokens_BS)


@pytest.mark.parametrize("node_weights", NODE_WEIGHTS)
@pytest.mark.parametrize(
    "options",
    [
        {"granularity": "node"},
        {"granularity": "utterance"},
        {"classes": "collapsed"},
        {"shift": 2},
        {"shift": -3},
    ],
    ids=str,
)
def test_padding_is_ignored(node_weights: str, options: dict[str, object]) -> None:
    output = OutputConfig("entropy", node_weights=node_weights, entropy_floor=1.5, **options)  # type: ignore[arg-type]
    objective, batch = make_objective(output, teacher=confident_teacher()), dummy_batch()
    results = []
    for version in (batch, padded_differently(batch)):
        model = tiny_model(seed=0)
        losses = compute(objective, model, version)
        losses.total.backward()
        results.append((losses.total, losses.terms, losses.per_utterance, gradients(model)))
    assert results[0][1]["kl_exponent"] < 0.9
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_total_is_the_weighted_sum_of_the_normalized_terms() -> None:
    losses = compute(make_objective(), tiny_model(), batch := dummy_batch())
    total = sum(weight * losses.terms[name] for name, weight in ALL_TERMS.items())
    torch.testing.assert_close(losses.total.detach(), total)
    frames = subsampled_length(batch.feature_lens_B).sum()
    for name, values in losses.per_utterance.items():
        divisor = frames if name in ("rnnt", "ctc", "rnnt_simple", "rnnt_pruned") else len(batch)
        torch.testing.assert_close(losses.terms[name], values.sum() / divisor)
        assert values.shape == (len(batch),) and not values.requires_grad
        assert values.dtype == torch.float32


def test_denominators_of_a_joint_batch() -> None:
    objective, model, batch = make_objective(), tiny_model(), dummy_batch()
    alone = compute(objective, model, batch)
    together = Denominators(500.0, 12.0)
    joint = objective(
        model,
        StepInput(batch, loss_weights=ALL_TERMS, context=STREAMING, step=1000, denominators=together),
    )
    torch.testing.assert_close(joint.terms["rnnt"], alone.per_utterance["rnnt"].sum() / 500)
    torch.testing.assert_close(joint.terms["output_kl"], alone.per_utterance["output_kl"].sum() / 12)


@pytest.mark.parametrize(
    ("weights", "unused"),
    [
        ({"rnnt": 1.0}, ["ctc_head"]),
        ({"ctc": 1.0}, ["joiner", "simple_am", "simple_lm"]),
        ({"hidden_mse": 1.0}, ["joiner", "simple_am", "simple_lm", "ctc_head"]),
        ({"output_kl": 1.0}, ["ctc_head"]),
    ],
)
def test_absent_terms_are_never_computed(weights: dict[str, float], unused: list[str]) -> None:
    objective, model = make_objective(), tiny_model()
    assert objective.teacher is not None
    teacher = objective.teacher.model
    out_of_use = [getattr(model, name) for name in unused]
    if not {"hidden_mse", "output_kl"} & set(weights):
        out_of_use.append(teacher)
    elif "output_kl" not in weights:
        out_of_use += [teacher.joiner, teacher.predictor]
    with forbidden(*out_of_use):
        losses = compute(objective, model, dummy_batch(), weights)
    assert set(weights) <= set(losses.terms)
    assert set(losses.terms) <= {*weights, "rnnt_simple", "rnnt_pruned", "kl_exponent"}
    with pytest.raises(AssertionError, match="was called"), forbidden(*out_of_use):
        compute(objective, model, dummy_batch(), ALL_TERMS)


def test_output_kl_alone_prunes_as_with_rnnt() -> None:
    objective, batch = make_objective(), dummy_batch()
    together = compute(objective, tiny_model(), batch, {"rnnt": 1.0, "output_kl": 1.0})
    model = tiny_model()
    alone = compute(objective, model, batch, {"output_kl": 1.0})
    torch.testing.assert_close(alone.terms["output_kl"], together.terms["output_kl"])
    alone.total.backward()
    assert model.simple_am.weight.grad is None and model.simple_lm.weight.grad is None
    assert model.joiner.output.weight.grad is not None and model.joiner.output.weight.grad.any()


def test_a_weight_of_zero_is_for_the_log_only() -> None:
    objective, batch = make_objective(), dummy_batch()
    with_zero = compute(objective, tiny_model(), batch, {"rnnt": 1.0, "ctc": 0.0})
    without = compute(objective, tiny_model(), batch, {"rnnt": 1.0})
    torch.testing.assert_close(with_zero.total, without.total)
    assert with_zero.terms["ctc"] > 0
    # Not even an infinite term counts.
    batch.feature_lens_B[1], batch.token_lens_B[1] = 23, 6
    objective = make_objective(rnnt=native(rnnt_type="modified"))
    losses = compute(objective, tiny_model(), batch, {"rnnt": 0.0, "ctc": 1.0})
    assert losses.per_utterance["rnnt"].isinf().any() and losses.total.isfinite()


def test_the_teacher_is_not_trained_and_not_saved() -> None:
    teacher = tiny_model(seed=1)
    objective, model = make_objective(teacher=teacher), tiny_model()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    compute(objective, model, dummy_batch()).total.backward()
    assert not list(objective.parameters()) and not objective.state_dict()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    objective.train()
    assert not teacher.training
    torch.testing.assert_close(dict(teacher.state_dict()), before)


def other_teacher(num_layers: int = 3, dim: int = 24) -> Transducer:
    config = tiny_config()
    encoder = replace(config.encoder, num_layers=num_layers, dim=dim)
    torch.manual_seed(3)
    return build_transducer(replace(config, encoder=encoder))


def test_adapters_between_widths_learn() -> None:
    objective, model, batch = make_objective(teacher=other_teacher()), tiny_model(), dummy_batch()
    adapters = dict(objective.named_parameters())
    assert {tuple(value.shape) for value in adapters.values()} == {(24, 16), (24,)}
    assert set(objective.state_dict()) == set(adapters)
    errors = []
    for _ in range(10):
        losses = compute(objective, model, batch, {"hidden_mse": 1.0})
        grads = torch.autograd.grad(losses.total, list(adapters.values()))
        with torch.no_grad():
            for adapter, grad in zip(adapters.values(), grads, strict=True):
                assert grad.any()
                adapter -= grad
        errors.append(float(losses.terms["hidden_mse"]))
    assert errors[-1] < 0.9 * errors[0]


def test_a_deeper_teacher_is_followed_at_equal_depth() -> None:
    objective = make_objective(teacher=other_teacher(num_layers=5, dim=16))
    assert isinstance(objective.hidden, HiddenTerm)
    assert objective.hidden.student_layers == [0, 1]
    assert objective.hidden.teacher_layers == [1, 4]
    chosen = make_objective(
        hidden=HiddenConfig(layers=[1], teacher_layers=[3], layer_weights=[0.5]),
        teacher=other_teacher(num_layers=5, dim=16),
    )
    model, batch = tiny_model(), dummy_batch()
    assert chosen.teacher is not None
    output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, STREAMING)
    taught = chosen.teacher.encode(batch)
    first = int(output.lens_B[0])
    expected = (output.hidden[1][0, :first] - taught.hidden[3].values_BTD[0, :first]).square().mean()
    losses = compute(chosen, model, batch, {"hidden_mse": 1.0})
    torch.testing.assert_close(losses.per_utterance["hidden_mse"][0], expected.detach())


def test_warm_up_moves_from_the_simple_to_the_pruned_loss() -> None:
    objective, model, batch = make_objective(), tiny_model(), dummy_batch()
    for step, simple, pruned in ((0, 1.0, 0.1), (50, 0.75, 0.55), (100, 0.5, 1.0), (10**6, 0.5, 1.0)):
        terms = compute(objective, model, batch, {"rnnt": 1.0}, step=step).terms
        expected = simple * terms["rnnt_simple"] + pruned * terms["rnnt_pruned"]
        torch.testing.assert_close(terms["rnnt"], expected)


@pytest.mark.parametrize(("step", "lost"), [(0, "pruned"), (10, "simple")])
def test_a_loss_that_does_not_count_makes_an_utterance_lost_not_nan(step: int, lost: str) -> None:
    config = native(pruned_start=0.0, simple_scale=0.0) if step else native(pruned_start=0.0)
    config.warmup_steps = 10
    finite_B, infinite_B = torch.tensor([3.0, 2.0]), torch.tensor([3.0, torch.inf])
    losses = (infinite_B, finite_B) if lost == "simple" else (finite_B, infinite_B)
    assert rnnt_term(config, step, *losses).tolist() == [3.0, torch.inf]


def test_delay_penalty_waits_for_the_warm_up() -> None:
    model, batch = tiny_model(), dummy_batch()
    plain = make_objective()
    penalized = make_objective(rnnt=native(delay_penalty=0.1))
    for step, equal in ((99, True), (100, False)):
        values = [
            compute(x, model, batch, {"rnnt": 1.0}, step=step).terms["rnnt"] for x in (plain, penalized)
        ]
        assert torch.allclose(values[0], values[1]) == equal


def test_fast_emit_waits_for_the_warm_up_and_moves_gradients_only() -> None:
    batch = dummy_batch()
    for step, equal in ((99, True), (100, False)):
        results = []
        for amount in (0.0, 0.5):
            model = tiny_model()
            losses = compute(make_objective(rnnt=native(fast_emit=amount)), model, batch, {"rnnt": 1.0}, step)
            losses.total.backward()
            results.append((losses.total.detach(), gradients(model)))
        (loss, grads), (fast_loss, fast_grads) = results
        assert torch.equal(loss, fast_loss)
        assert all(torch.equal(grads[name], fast_grads[name]) for name in grads) == equal


def test_buffers_tie_pieces_to_their_words_where_times_are_known() -> None:
    model, batch = tiny_model(), dummy_batch()
    times = torch.tensor([0.0, torch.inf]).repeat(*batch.tokens_BS.shape, 1)
    tied = replace(batch, word_times_BS2=times)
    usual = compute(make_objective(), model, batch, {"rnnt": 1.0}).terms
    free = compute(make_objective(rnnt=native(left_buffer=0.0)), model, tied, {"rnnt": 1.0}).terms
    assert torch.equal(usual["rnnt"], free["rnnt"])
    # Not before 0.2 s of the first utterance: encoder frames 0 to 4 may emit nothing, so less is possible.
    times[0, :, 0] = 0.3
    objective = make_objective(rnnt=native(left_buffer=0.1))
    later = compute(objective, model, tied, {"rnnt": 1.0}).terms
    assert later["rnnt_pruned"] > usual["rnnt_pruned"] and later["rnnt_simple"] > usual["rnnt_simple"]
    # Without times nothing is tied, as in validation.
    assert torch.equal(compute(objective, model, batch, {"rnnt": 1.0}).terms["rnnt"], usual["rnnt"])


def test_the_windows_of_pieces_are_their_words_and_the_buffers() -> None:
    batch = replace(dummy_batch(1, max_tokens=2), word_times_BS2=torch.tensor([[[0.30, 0.5], [0.5, 1.0]]]))
    cpu = torch.device("cpu")
    both = lattice._windows(RnntConfig(left_buffer=0.1, right_buffer=0.2), batch, 0.04, cpu)
    # A frame is 40 ms: 0.2 s is in frame 5, 0.7 s in frame 17, 0.4 s in frame 10, 1.2 s in frame 30.
    assert both is not None and both.tolist() == [[[5, 18], [10, 31]]]
    left = lattice._windows(RnntConfig(left_buffer=0.0), batch, 0.04, cpu)
    assert left is not None and left[0, :, 0].tolist() == [7, 12] and left[0, :, 1].min() > 10_000
    assert lattice._windows(RnntConfig(), batch, 0.04, cpu) is None


@pytest.mark.parametrize(
    ("option", "value"), [("fast_emit", 0.01), ("left_buffer", 0.0), ("right_buffer", 1.0)]
)
def test_what_k2_lacks_is_native_or_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, option: str, value: float
) -> None:
    k2 = replace(NATIVE, name="k2")
    with_k2 = {"auto": k2, "k2": k2, "native": NATIVE}
    monkeypatch.setattr(lattice, "select_backend", lambda name, reason="": with_k2[name])
    assert make_objective(rnnt=RnntConfig()).lattices.backend_name == "k2"
    assert make_objective(rnnt=RnntConfig(**{option: value})).lattices.backend_name == "native"
    with pytest.raises(UserError, match=rf"{option} {value} needs objective\.rnnt\.backend 'native' or"):
        make_objective(rnnt=RnntConfig(backend="k2", **{option: value}))


def test_another_backend_with_the_same_functions_gives_the_same() -> None:
    objective, model, batch = make_objective(), tiny_model(), dummy_batch()
    expected = compute(objective, model, batch)
    objective.lattices._chosen = replace(select_backend("native"), name="k2")
    torch.testing.assert_close(compute(objective, model, batch).terms, expected.terms)


@pytest.mark.parametrize("num_tokens", [0, 60])
def test_batches_that_k2_refuses_go_to_the_native_losses(num_tokens: int) -> None:
    """k2 asserts where no transcript has a piece, and where there are more pieces than frames."""

    def refuse(**_: object) -> None:
        raise AssertionError

    objective, model, batch = make_objective(), tiny_model(), dummy_batch()
    objective.lattices._chosen = replace(
        select_backend("native"), name="k2", rnnt_loss_smoothed=refuse, rnnt_loss_pruned=refuse
    )
    batch.tokens_BS = torch.ones(len(batch), num_tokens, dtype=torch.int64)
    batch.token_lens_B = torch.full((len(batch),), num_tokens)
    assert compute(objective, model, batch, {"rnnt": 1.0}).total.isfinite()


@pytest.mark.parametrize(
    ("rnnt_type", "activation"),
    [("regular", "tanh"), ("regular", "relu"), ("modified", "tanh"), ("constrained", "tanh")],
)
def test_bf16_autocast_is_finite_and_close(rnnt_type: str, activation: str) -> None:
    """With a teacher that has the joiner of the losses or another one."""
    teacher, batch = tiny_model(seed=1), dummy_batch()
    teacher.joiner.activation = activation
    objective = make_objective(rnnt=native(rnnt_type=rnnt_type), teacher=teacher)
    exact = compute(objective, tiny_model(), batch)
    model = tiny_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = compute(objective, model, batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    assert all(grad.isfinite().all() for grad in gradients(model).values())
    for name in ("rnnt", "output_kl"):
        torch.testing.assert_close(losses.terms[name], exact.terms[name], rtol=0.05, atol=0.0)


class NoWait(TorchFunctionMode):
    """Refuses copies to a device that wait for all of its work; what is copied here are lengths."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        moves = any(isinstance(value, (torch.device, Tensor)) for value in (*args[1:], *kwargs.values()))
        assert func is not Tensor.to or not moves or kwargs.get("non_blocking")
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (tiny_encoder(), small_config()),
        (small_config(), FastConformerConfig(num_layers=1, dim=8, num_heads=2)),
    ],
)
def test_no_copy_of_lengths_waits_for_the_device(student: EncoderConfig, teacher: EncoderConfig) -> None:
    batch, model = dummy_batch(), build_transducer(replace(tiny_config(), encoder=student))
    config = ObjectiveConfig(
        rnnt=native(left_buffer=9.0, delay_penalty=0.01), output=OutputConfig(shift=1, wrong_nodes="drop")
    )
    frozen = TransducerTeacher(build_transducer(replace(tiny_config(), encoder=teacher)), Context.full())
    batch.word_times_BS2 = torch.zeros(*batch.tokens_BS.shape, 2)
    batch.teacher_features_BTF, batch.teacher_kind = batch.features_BTF, frozen.geometry.features
    rate = [at for at, layer in enumerate(student.geometry.hidden) if layer.stride == student.geometry.stride]
    config.auxiliary = AuxiliaryConfig(layers=rate[-1:], num_heads=1)  # type: ignore[attr-defined]
    weights = dict.fromkeys(known_terms(), 1.0)
    with NoWait():
        objective = Objective(config, model.config, frozen)
        compute(objective, model, batch, weights, context=Context(4, 2)).total.backward()


@pytest.mark.parametrize("num_columns", [0, 3])
def test_a_batch_of_empty_transcripts(num_columns: int) -> None:
    batch = dummy_batch()
    empty = replace(
        batch, tokens_BS=batch.tokens_BS[:, :num_columns], token_lens_B=torch.zeros_like(batch.token_lens_B)
    )
    model = tiny_model()
    losses = compute(make_objective(), model, empty)
    losses.total.backward()
    assert losses.total.isfinite()
    assert all(grad.isfinite().all() for grad in gradients(model).values())


def test_an_utterance_without_path_spoils_no_gradient() -> None:
    """Six pieces do not fit into five frames of the modified lattice."""
    batch = dummy_batch()
    batch.feature_lens_B[1], batch.token_lens_B[1] = 23, 6
    model, weights = tiny_model(), {"rnnt": 1.0, "ctc": 0.3}
    losses = compute(make_objective(rnnt=native(rnnt_type="modified")), model, batch, weights)
    assert losses.per_utterance["rnnt"].isinf().tolist() == [False, True, False]
    losses.total.backward()
    # What the others teach is what they teach without it.
    alone, others = tiny_model(), batch.select([0, 2])
    whole = Denominators(float(make_objective().count(batch).frames), 3.0)
    inputs = StepInput(others, loss_weights=weights, context=STREAMING, step=1000, denominators=whole)
    expected = make_objective(rnnt=native(rnnt_type="modified"))(alone, inputs)
    torch.testing.assert_close(losses.total, expected.total)
    expected.total.backward()
    torch.testing.assert_close(gradients(model), gradients(alone), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": tiny_model(vocab_size=12)}, "vocab_size is 12.* 11"),
        ({"rnnt": native(rnnt_type="fast")}, "rnnt_type' is fast"),
        ({"rnnt": RnntConfig(backend="cuda")}, "backend' is cuda"),
        ({"output": OutputConfig(rule="magic")}, "objective.output.rule' is magic"),
        (
            {"output": OutputConfig("confidence", 1.0)},
            "objective.output.exponent is 1, which smooths nothing",
        ),
        ({"output": OutputConfig(exponent=2.0)}, "objective.output.exponent' is 2.0"),
        ({"output": OutputConfig(node_weights="some")}, "node_weights' is some"),
        ({"output": OutputConfig(classes="two")}, "classes' is two; expected one of full, collapsed"),
        ({"rnnt": native(fast_emit=-0.1)}, "objective.rnnt.fast_emit' is -0.1"),
        ({"rnnt": native(right_buffer=-0.1)}, "objective.rnnt.right_buffer' is -0.1"),
        ({"hidden": HiddenConfig(layers=[2])}, "objective.hidden.layers: 2 .* 0 to 1"),
        ({"hidden": HiddenConfig(layers=[0], layer_weights=[1.0, 1.0])}, "layer_weights has 2"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(**options)  # type: ignore[arg-type]


def test_wrong_weights_are_named() -> None:
    alone = Objective(ObjectiveConfig(rnnt=native()), tiny_config(), None)
    model, batch = tiny_model(), dummy_batch()
    assert compute(alone, model, batch, {"rnnt": 1.0, "ctc": 1.0}).total.isfinite()
    with pytest.raises(UserError, match=r"hidden_mse.*no teacher"):
        compute(alone, model, batch, {"hidden_mse": 1.0})
    with pytest.raises(UserError, match="'rnt'"):
        compute(alone, model, batch, {"rnt": 1.0})
