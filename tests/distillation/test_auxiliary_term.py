"""`auxiliary`: branches of training only."""

# Shapes: B utterances, T encoder frames, H width.

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import CHUNKED, fit, random_batch, small_config, small_model, tiny_system

from kdasr.checkpoint import average_checkpoints, load_checkpoint
from kdasr.common.errors import UserError
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.distillation.terms.auxiliary import AuxiliaryConfig, Branch
from kdasr.nn.context import Context

LENS_B = torch.tensor([9, 6, 0])


def objective(**options: Any) -> Objective:
    torch.manual_seed(3)
    teacher = TransducerTeacher(small_model(seed=7, dim=12), Context.full())
    config = AuxiliaryConfig(**{"layers": [0, 1], "num_heads": 2, "ffn_dim": 8, **options})
    return Objective(replace(ObjectiveConfig(), auxiliary=config), small_config(), teacher)  # type: ignore[call-arg]


def test_predictions_know_nothing_of_later_frames_and_the_rest_of_the_branch_does() -> None:
    torch.manual_seed(0)
    branch = Branch(AuxiliaryConfig(num_heads=2, ffn_dim=8), 16, 12).double()
    hidden_BTH = torch.randn(3, 9, 16, dtype=torch.float64, requires_grad=True)
    found = branch(hidden_BTH, LENS_B)
    assert found.predicted_BTD is not None and found.whole_BTD.isfinite().all()
    for frame in (0, 4):
        for values, reach in ((found.predicted_BTD, frame + 1), (found.whole_BTD, 9)):
            gradient = torch.autograd.grad(values[0, frame].sum(), hidden_BTH, retain_graph=True)[0]
            assert gradient[0, :reach].any(dim=1).all() and not gradient[0, reach:].any()
    # Nor does any frame know the padding behind its utterance.
    gradient = torch.autograd.grad(found.whole_BTD[1, :6].sum(), hidden_BTH)[0]
    assert not gradient[1, 6:].any() and not gradient[0].any()


def test_parts_have_their_weights_and_reach_student_and_branches() -> None:
    of, model = objective(distance=2.0, relation=3.0, prediction=4.0), small_model()
    inputs = StepInput(random_batch(1), loss_weights={"auxiliary": 0.5}, context=CHUNKED, step=0)
    losses = of(model, inputs)
    terms = losses.terms
    expected = 2 * terms["aux_distance"] + 3 * terms["aux_relation"] + 4 * terms["aux_prediction"]
    torch.testing.assert_close(terms["auxiliary"], expected)
    torch.testing.assert_close(losses.total, 0.5 * expected)
    losses.total.backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in of.terms["auxiliary"].parameters()
    )
    assert any(
        parameter.grad is not None and parameter.grad.any() for parameter in model.encoder.parameters()
    )
    fewer = objective(relation=0.0, prediction=0.0)(model, inputs).terms
    assert set(fewer) == {"auxiliary", "aux_distance"}


def test_training_leaves_a_model_like_any_other(tmp_path: Path) -> None:
    weights = {"rnnt": 1.0, "auxiliary": 0.1}
    stages = [StageConfig(name="only", num_steps=3, loss_weights=weights)]
    of = objective()
    own = of.state_dict().items()
    before = {name: value.clone() for name, value in own if name.startswith("auxiliary.")}
    fit(tiny_system(tmp_path / "with", stages=stages, objective=of, contexts=[CHUNKED]))
    plain = [StageConfig(name="only", num_steps=3, loss_weights={"rnnt": 1.0})]
    fit(tiny_system(tmp_path / "without", stages=plain, contexts=[CHUNKED]))
    kept = [load_checkpoint(tmp_path / name / "checkpoints" / "best.pt") for name in ("with", "without")]
    shapes = [{name: value.shape for name, value in payload["model"].items()} for payload in kept]
    assert shapes[0] == shapes[1] and set(kept[0]) == set(kept[1])
    averaged = average_checkpoints([tmp_path / "with" / "checkpoints" / "best.pt"])
    assert set(averaged["model"]) == set(shapes[1])
    last = load_checkpoint(tmp_path / "with" / "checkpoints" / "last.pt")
    branches = last["trainer"]["objective"]
    assert {name for name in branches if name.startswith("auxiliary.")} == set(before)
    assert all(not torch.equal(branches[name], before[name]) for name in before if name.endswith("weight"))


def test_the_branches_are_no_part_of_an_objective_without_layers() -> None:
    of = objective(layers=[])
    assert not list(of.terms["auxiliary"].parameters())
    inputs = StepInput(random_batch(1), loss_weights={"auxiliary": 0.5}, context=CHUNKED, step=0)
    with pytest.raises(UserError, match=r"objective\.auxiliary\.layers is empty"):
        of(small_model(), inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2]}, "layers: 2 is not a layer; there are 0 to 1"),
        ({"teacher_layers": [0]}, "teacher_layers has 1 entries for 2 layers"),
        ({"teacher_layers": [0, 5]}, "teacher_layers: 5 is not a layer"),
        ({"num_heads": 5}, "num_heads is 5; it must divide 12"),
        ({"distance": 0.0, "relation": 0.0, "prediction": 0.0}, "all 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective(**options)
