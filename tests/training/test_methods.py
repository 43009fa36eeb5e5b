"""Each way to distill is a row of YAML: two steps of every stage, on random batches."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from tiny_system import CHUNKED, fit, small_config, small_model, tiny_system, trainer_config

from kdasr.distillation.objective import Objective
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms.base import Need, needing
from kdasr.experiment.recipe_file import load_experiment
from kdasr.nn.context import Context

RECIPE = """
contexts: [{left: 4, chunk: 4, right: 0}]
objective: {teacher: teacher, rnnt: {warmup_steps: 1}}

systems:
  hidden-only:
    stages: [{name: hidden, num_steps: 2, loss_weights: {rnnt: 1.0, hidden_mse: 1.0}}]
  output-only:
    stages: [{name: output, num_steps: 2, loss_weights: {rnnt: 1.0, output_kl: 0.3}}]
  both-at-once:
    stages: [{name: both, num_steps: 2, loss_weights: {rnnt: 1.0, ctc: 0.5, hidden_mse: 1.0, output_kl: 0.3}}]
  without-rnnt:
    stages: [{name: both, num_steps: 2, loss_weights: {hidden_mse: 1.0, output_kl: 0.3}}]
  two-stage-fixed: &two-stage
    objective: {output: {rule: fixed, exponent: 0.7}}
    stages:
      - {name: hidden, num_steps: 2, loss_weights: {rnnt: 1.0, ctc: 0.5, hidden_mse: 1.0}}
      - {name: output, num_steps: 2, loss_weights: {rnnt: 1.0, ctc: 0.5, output_kl: 0.3}}
  two-stage-entropy:
    <<: *two-stage
    objective: {output: {rule: entropy, entropy_floor: 1.0}}
  two-stage-confidence:
    <<: *two-stage
    objective: {output: {rule: confidence, exponent: 0.3, granularity: utterance}}
  reverse:
    <<: *two-stage
    objective: {output: {direction: reverse, classes: full}}
  symmetric:
    <<: *two-stage
    objective: {output: {direction: symmetric, classes: full, node_weights: uniform}}
  collapsed:
    <<: *two-stage
    objective: {output: {classes: collapsed}}
  shifted:
    <<: *two-stage
    objective: {output: {shift: 2}}
  teacher-occupation:
    <<: *two-stage
    objective: {output: {node_weights: teacher_occupation}}
  both-occupations:
    <<: *two-stage
    objective: {output: {node_weights: both}}
  nonblank:
    <<: *two-stage
    objective: {output: {node_weights: nonblank}}
  path:
    stages: [{name: path, num_steps: 2, loss_weights: {rnnt: 1.0, path_kl: 0.1}}]
  path-and-output:
    stages: [{name: path, num_steps: 2, loss_weights: {rnnt: 1.0, output_kl: 0.3, path_kl: 0.1}}]
  early:
    objective: {rnnt: {backend: native, fast_emit: 0.01, delay_penalty: 0.005}}
    stages: [{name: early, num_steps: 2, loss_weights: {rnnt: 1.0, output_kl: 0.3}}]
"""


@pytest.mark.parametrize("method", yaml.safe_load(RECIPE)["systems"])
def test_every_stage_of_a_method_trains_on_its_terms(tmp_path: Path, method: str) -> None:
    (tmp_path / "methods.yaml").write_text(RECIPE)
    config = load_experiment(tmp_path / "methods.yaml", method)
    teacher = TransducerTeacher(small_model(seed=7), Context.full())
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    system = tiny_system(
        tmp_path / "exp",
        contexts=config.contexts,
        stages=config.stages,
        config=trainer_config(),
        model=model,
        objective=Objective(config.objective, small_config(), teacher),
    )
    assert system.contexts == [CHUNKED]
    fit(system)
    rows = [json.loads(line) for line in (tmp_path / "exp" / "metrics.jsonl").read_text().splitlines()]
    for stage in config.stages:
        logged = [row for row in rows if row["stage"] == stage.name and row["split"] == "train"]
        assert logged
        for row in logged:
            assert all(math.isfinite(row["terms"][name]) for name in stage.loss_weights)
            assert not set(needing(Need.TEACHER, row["terms"])) - set(stage.loss_weights)
    after = model.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert "encoder" in moved and ("joiner" in moved or method == "hidden-only")
