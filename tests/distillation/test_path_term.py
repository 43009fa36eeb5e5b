"""`path_kl` as a term of the objective."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.step import Losses, StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.distillation.terms.path_kl import PathConfig
from kdasr.losses.pruned_rnnt import select_backend
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.subsampling import subsampled_length
from kdasr.testing import dummy_batch, tiny_config, tiny_model

STREAMING = Context(left=4, chunk=2)
FORMS = [PathConfig(), PathConfig("teacher"), PathConfig("none"), PathConfig("both", 0.5)]
ALONE = {"path_kl": 1.0}


def make_objective(
    path: PathConfig | None = None, teacher: Transducer | None = None, **rnnt: object
) -> Objective:
    config = ObjectiveConfig(
        rnnt=RnntConfig(**({"backend": "native", "warmup_steps": 0, "prune_range": 3} | rnnt)),  # type: ignore[arg-type]
        path=path or PathConfig(),
    )
    return Objective(config, tiny_config(), TransducerTeacher(teacher or tiny_model(seed=1), Context.full()))


def compute(
    objective: Objective,
    model: Transducer,
    batch: Batch,
    weights: dict[str, float] = ALONE,
    context: Context = STREAMING,
) -> Losses:
    return objective(model, StepInput(batch, loss_weights=weights, context=context, step=10))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    objective, batch, model = make_objective(teacher=tiny_model()), dummy_batch(), tiny_model()
    losses = compute(objective, model, batch, context=Context.full())
    torch.testing.assert_close(losses.terms["path_kl"], torch.tensor(0.0), rtol=0.0, atol=1e-5)
    losses.total.backward()
    assert all(grad.abs().max() < 1e-5 for grad in gradients(model).values())
    other = compute(objective, tiny_model(seed=5), batch)
    assert (other.per_utterance["path_kl"] > 0.01).all()


def test_the_log_has_nats_per_frame_and_no_other_terms() -> None:
    batch = dummy_batch()
    losses = compute(make_objective(), tiny_model(), batch)
    assert set(losses.terms) == set(losses.per_utterance) == {"path_kl"}
    frames = subsampled_length(batch.feature_lens_B).sum()
    torch.testing.assert_close(losses.terms["path_kl"], losses.per_utterance["path_kl"].sum() / frames)
    torch.testing.assert_close(losses.total.detach(), losses.terms["path_kl"])
    together = compute(make_objective(), tiny_model(), batch, {"rnnt": 0.5, "output_kl": 0.2, "path_kl": 2.0})
    expected = {"rnnt", "rnnt_simple", "rnnt_pruned", "output_kl", "kl_exponent", "path_kl"}
    assert set(together.terms) == expected
    torch.testing.assert_close(together.terms["path_kl"], losses.terms["path_kl"])
    total = 0.5 * together.terms["rnnt"] + 0.2 * together.terms["output_kl"] + 2 * together.terms["path_kl"]
    torch.testing.assert_close(together.total.detach(), total)


@pytest.mark.parametrize("path", FORMS, ids=str)
@pytest.mark.parametrize("weights", [ALONE, {"rnnt": 0.0, "output_kl": 0.3, "path_kl": 1.0}], ids=str)
def test_it_trains(path: PathConfig, weights: dict[str, float]) -> None:
    teacher, batch = tiny_model(seed=1), dummy_batch()
    if path.normalize == "none":
        # A transcript that the teacher finds impossible teaches nothing.
        batch = replace(batch, token_lens_B=torch.tensor([1, 0, 1]))
        with torch.no_grad():
            teacher.joiner.output.bias[0] += 5.0
    objective, model = make_objective(path, teacher), tiny_model()
    values = []
    for _ in range(4):
        losses = compute(objective, model, batch, weights)
        model.zero_grad()
        losses.total.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * (0.0 if p.grad is None else p.grad)
        values.append(float(losses.terms["path_kl"]))
    assert 0.0 < values[-1] < 0.97 * values[0]
    grads = gradients(model)
    assert "simple_am.weight" not in grads or not grads["simple_am.weight"].any()
    assert objective.teacher is not None
    assert all(p.grad is None for p in objective.teacher.model.parameters())


def padded_differently(batch: Batch) -> Batch:
    """The same utterances among more, and other, padding."""
    noise = dummy_batch(seed=9, max_frames=90, max_tokens=9, padding=-8.0)
    features_BTF, tokens_BS = noise.features_BTF.clone(), noise.tokens_BS.clone()
    for i, (frames, pieces) in enumerate(zip(batch.feature_lens_B, batch.token_lens_B, strict=True)):
        features_BTF[i, :frames] = batch.features_BTF[i, :frames]
        tokens_BS[i, :pieces] = batch.tokens_BS[i, :pieces]
    return replace(batch, features_BTF=features_BTF, tokens_BS=tokens_BS)


@pytest.mark.parametrize("path", FORMS[:2], ids=str)
def test_padding_is_ignored(path: PathConfig) -> None:
    objective, batch = make_objective(path), dummy_batch()
    results = []
    for version in (batch, padded_differently(batch)):
        model = tiny_model()
        losses = compute(objective, model, version)
        losses.total.backward()
        results.append((losses.per_utterance, gradients(model)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_without_rnnt_the_simple_heads_are_left_alone() -> None:
    model = tiny_model()
    compute(make_objective(), model, dummy_batch()).total.backward()
    assert model.simple_am.weight.grad is None and model.simple_lm.weight.grad is None
    assert model.joiner.output.weight.grad is not None and model.joiner.output.weight.grad.any()


@pytest.mark.parametrize("path", FORMS, ids=str)
def test_an_utterance_that_does_not_fit_does_not_spoil_the_others(path: PathConfig) -> None:
    """Six pieces do not fit into five frames of the modified lattice."""
    batch, model = dummy_batch(), tiny_model()
    batch.feature_lens_B[1], batch.token_lens_B[1] = 23, 6
    objective = make_objective(path, rnnt_type="modified")
    losses = compute(objective, model, batch, {"rnnt": 0.0, "path_kl": 1.0})
    assert losses.per_utterance["rnnt"].isinf().tolist() == [False, True, False]
    assert losses.per_utterance["path_kl"][1] == 0 and losses.total.isfinite()
    both = compute(objective, model, batch, {"rnnt": 1.0, "path_kl": 1.0})
    assert both.per_utterance["rnnt"][1].isinf() and both.total.isfinite()
    (losses.total + both.total).backward()
    assert all(grad.isfinite().all() for grad in gradients(model).values())


@pytest.mark.parametrize("num_columns", [0, 3])
def test_a_batch_of_empty_transcripts(num_columns: int) -> None:
    batch, model = dummy_batch(), tiny_model()
    empty = replace(
        batch, tokens_BS=batch.tokens_BS[:, :num_columns], token_lens_B=torch.zeros_like(batch.token_lens_B)
    )
    losses = compute(make_objective(), model, empty, {"rnnt": 1.0, "path_kl": 1.0})
    losses.total.backward()
    # Blanks all along: there is one path.
    torch.testing.assert_close(losses.terms["path_kl"], torch.tensor(0.0), rtol=0.0, atol=1e-5)
    assert all(grad.isfinite().all() for grad in gradients(model).values())


def test_with_another_backend_the_paths_are_evaluated_beside_it() -> None:
    objective, model, batch = make_objective(), tiny_model(), dummy_batch()
    weights = {"rnnt": 1.0, "path_kl": 1.0}
    expected = compute(objective, model, batch, weights)
    objective.lattices._chosen = replace(select_backend("native"), name="k2")
    losses = compute(objective, model, batch, weights)
    torch.testing.assert_close(losses.terms, expected.terms)
    losses.total.backward()
    ours = gradients(model)
    model.zero_grad()
    expected.total.backward()
    torch.testing.assert_close(ours, gradients(model))


def test_bf16_autocast_is_finite_and_close() -> None:
    objective, batch, model = make_objective(PathConfig("teacher")), dummy_batch(), tiny_model()
    exact = compute(objective, model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = compute(objective, model, batch)
    losses.total.backward()
    assert losses.total.dtype == torch.float32
    assert all(grad.isfinite().all() for grad in gradients(model).values())
    torch.testing.assert_close(losses.terms["path_kl"], exact.terms["path_kl"], rtol=0.05, atol=0.0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            PathConfig("student"),
            r"objective\.path\.normalize' is student; expected one of both, teacher, none",
        ),
        (PathConfig(exponent=-1.0), r"objective\.path\.exponent' is -1\.0"),
        (PathConfig("none", 0.5), r"objective\.path\.exponent 0\.5: expected 1"),
    ],
)
def test_impossible_settings_are_named(path: PathConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_objective(path)


def test_it_needs_a_teacher() -> None:
    alone = Objective(ObjectiveConfig(rnnt=RnntConfig(backend="native")), tiny_config(), None)
    with pytest.raises(UserError, match=r"path_kl.*no teacher"):
        compute(alone, tiny_model(), dummy_batch())
