"""A new term is one file: two that the toolkit does not have are trained and reported."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from modes_term import ModesTerm
from tiny_system import fit, random_batch, small_config, small_model, tiny_system
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.lattice import PrunedLattice
from kdasr.distillation.objective import Objective
from kdasr.distillation.step import StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms.base import (
    Found,
    Given,
    LatticeTerm,
    Need,
    Wanted,
    register,
    unregister,
)
from kdasr.experiment.recipe_file import load_experiment
from kdasr.losses.lattice.nodes import Nodes, NodeValues
from kdasr.nn.context import Context
from kdasr.report.curves import training_plot
from kdasr.report.metrics_log import read_metrics
from kdasr.report.records import SystemRecord
from kdasr.report.style import system_styles

# Shapes: B utterances, T encoder frames, K states kept per frame, N nodes, V pieces, D width.


unregister(ModesTerm.name)  # its file has registered it; only the tests below are to know it


class Confidence:
    """A divergence between nodes: minus the entropy of the student's distribution."""

    def __init__(self, lattice: PrunedLattice) -> None:
        self.valid_BTK = lattice.valid

    def weigh(self, occupation_BTK: Tensor) -> Tensor:
        weights_BTK = self.valid_BTK.to(occupation_BTK.dtype)
        return weights_BTK / weights_BTK.sum((1, 2), keepdim=True)

    def begin(self, nodes: Nodes) -> None: ...

    def evaluate(self, student_NV: Tensor, nodes: Nodes, with_gradient: bool) -> NodeValues:
        with torch.enable_grad():
            logits_NV = student_NV.detach().requires_grad_()
            log_probs_NV = logits_NV.log_softmax(1)
            value_N = (log_probs_NV.exp() * log_probs_NV).sum(1)
            (gradient_NV,) = torch.autograd.grad((value_N * nodes.weights_N).sum(), logits_NV)
        return NodeValues(value_N.detach(), gradient_NV, torch.ones_like(nodes.weights_N))


class ConfidenceTerm(LatticeTerm):
    name = "confidence"
    title = "confidence (confidence), nats"
    needs = frozenset({Need.TEXT})

    def prepare(self, lattice: PrunedLattice, given: Given) -> Wanted:
        return Wanted(nodes=Confidence(lattice))

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        assert found.nodes is not None
        return {"confidence": found.nodes.value_B}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    terms = [ModesTerm, ConfidenceTerm]
    for term in terms:
        register(term)
    yield
    for term in terms:
        unregister(term.name)


RECIPE = """
contexts: [{left: 4, chunk: 4, right: 0}]
objective: {teacher: teacher, rnnt: {backend: native, warmup_steps: 1}, modes: {scale: 2.0}}
stages:
  - name: only
    num_steps: 4
    loss_weights: {rnnt: 1.0, modes: 0.5, confidence: 0.1, output_kl: 0.2, path_kl: 0.1}
"""


def test_a_new_term_trains_is_logged_and_has_its_plot(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    config = load_experiment(tmp_path / "recipe.yaml")
    teacher = TransducerTeacher(small_model(seed=7), Context.full())
    objective = Objective(config.objective, small_config(), teacher)
    before_DD = objective.state_dict()["modes.project.weight"].clone()
    system = tiny_system(
        tmp_path / "exp", contexts=config.contexts, stages=config.stages, objective=objective
    )
    fit(system)
    assert not torch.equal(objective.state_dict()["modes.project.weight"], before_DD), "its parameters train"
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"train", "valid"}
    assert all({"modes", "confidence", "output_kl", "path_kl"} <= set(row["terms"]) for row in rows)
    record = SystemRecord("toy", tmp_path / "exp", {}, {}, read_metrics(tmp_path / "exp" / "metrics.jsonl"))
    plot = training_plot([record], system_styles(["toy"]))
    assert plot is not None
    titles = [axes.get_title(loc="left") for axes in plot.figure.axes]
    assert {"two contexts (modes)", "confidence (confidence), nats", "path KL (path_kl)"} <= set(titles)


def test_settings_of_a_new_term_are_checked(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(UserError, match=r"objective\.modes\.scale' is -1"):
        load_experiment(tmp_path / "recipe.yaml", overrides=["objective.modes.scale=-1"])
    with pytest.raises(ValueError, match="'modes'"):
        register(ModesTerm)


def test_lattice_terms_together_are_their_sum() -> None:
    weights = {"rnnt": 1.0, "confidence": 0.3, "output_kl": 0.5, "path_kl": 0.2}
    teacher = TransducerTeacher(small_model(seed=7), Context.full())
    from kdasr.distillation.terms import ObjectiveConfig

    objective, model = Objective(ObjectiveConfig(), small_config(), teacher), small_model()

    def gradient(loss_weights: dict[str, float]) -> Tensor:
        model.zero_grad()
        inputs = StepInput(
            random_batch(3), loss_weights=loss_weights, context=Context(left=4, chunk=4), step=1000
        )
        objective(model, inputs).total.backward()
        return torch.cat([p.grad.flatten() for p in model.encoder.parameters() if p.grad is not None])

    one_by_one = sum(gradient({name: weight}) for name, weight in weights.items())
    torch.testing.assert_close(gradient(weights), one_by_one, rtol=1e-4, atol=1e-6)
    assert gradient({"confidence": 1.0}).abs().max() > 1e-4
