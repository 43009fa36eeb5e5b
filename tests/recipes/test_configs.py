"""Every shipped configuration loads, for every system, and describes a fair comparison."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdasr.data.augment import generator_for, spec_augment
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.distillation.objective_config import LENGTHS
from kdasr.experiment.config import ExperimentConfig, load_experiment
from kdasr.models.transducer.build import build_transducer

CONF = Path(__file__).parents[2] / "egs" / "librispeech" / "conf"
FILES = sorted(CONF.glob("*.yaml"))
SYSTEMS = ("teacher", "streaming", "streaming-init", "two-stage")


def length(config: ExperimentConfig) -> dict[str, float]:
    """Of all stages together, by the option that says it."""
    return {name: sum(stage.length.get(name, 0) for stage in config.stages) for name in LENGTHS}


def test_the_sizes_of_the_recipe_are_there() -> None:
    assert {path.stem for path in FILES} >= {"tiny", "demo", "base", "large", "librispeech"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_systems_are_compared_at_equal_steps_data_and_context(path: Path) -> None:
    configs = {system: load_experiment(path, system) for system in SYSTEMS}
    assert configs["teacher"].contexts[0].is_full
    baseline = configs["streaming"]
    assert not baseline.contexts[0].is_full
    for name in ("streaming-init", "two-stage"):
        other = configs[name]
        assert length(other) == length(baseline), name
        assert other.contexts == baseline.contexts, name
        assert other.training == baseline.training, name
        assert other.objective.rnnt == baseline.objective.rnnt, name
        # From scratch, masks and dropout may be others: each has what is best for it.
        assert _unregularized(other) == _unregularized(baseline), name
        assert (other.model, other.data) == (configs["streaming-init"].model, configs["streaming-init"].data)


def _unregularized(config: ExperimentConfig) -> tuple[object, object]:
    encoder = replace(config.model.encoder, dropout=0.0)
    return replace(config.model, encoder=encoder), replace(config.data, spec_augment=SpecAugmentConfig())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_unified_student_differs_by_its_chunks_only(path: Path) -> None:
    unified, fixed = load_experiment(path, "unified"), load_experiment(path, "streaming-init")
    assert unified.contexts[0] == fixed.contexts[0]
    assert sorted(context.chunk for context in unified.contexts) == [2, 4, 8, 16, 32]
    assert {(context.left, context.right) for context in unified.contexts} == {(fixed.contexts[0].left, 0)}
    assert (unified.stages, unified.model, unified.data, unified.training, unified.objective) == (
        *(fixed.stages, fixed.model, fixed.data, fixed.training, fixed.objective),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_method_is_hidden_states_first_then_outputs(path: Path) -> None:
    first, second = load_experiment(path, "two-stage").stages
    assert "hidden_mse" in first.loss_weights and "output_kl" not in first.loss_weights
    assert "output_kl" in second.loss_weights


@pytest.mark.parametrize(("stem", "low", "high"), [("tiny", 2e4, 2e5), ("librispeech", 70e6, 90e6)])
def test_models_have_the_stated_size(stem: str, low: float, high: float) -> None:
    config = load_experiment(CONF / f"{stem}.yaml", "teacher").model
    config.vocab_size = 500
    parameters = sum(p.numel() for p in build_transducer(config).parameters())
    assert low < parameters < high


@pytest.mark.parametrize("stem", ["large", "librispeech"])
def test_a_baseline_trains_as_long_as_teacher_and_student_together(stem: str) -> None:
    path = CONF / f"{stem}.yaml"
    together = [length(load_experiment(path, system))["num_epochs"] for system in ("teacher", "two-stage")]
    long = load_experiment(path, "streaming-long")
    assert length(long)["num_epochs"] == sum(together) > 0
    short = load_experiment(path, "streaming")
    assert (long.contexts, long.data, long.model) == (short.contexts, short.data, short.model)


@pytest.mark.parametrize(("stem", "share"), [("librispeech", 0.45), ("base", 0.31)])
def test_masks_cover_the_share_of_cells_that_is_stated(stem: str, share: float) -> None:
    """Of the conformer's paper: two masks of up to 27 of 80 bins, ten of up to 5 % of the frames."""
    config = load_experiment(CONF / f"{stem}.yaml", "teacher").data.spec_augment
    features_BTF = torch.randn(300, 400, 80)
    masked_BTF = spec_augment(features_BTF, torch.full((300,), 400), config, generator_for(1))
    assert float((masked_BTF != features_BTF).float().mean()) == pytest.approx(share, abs=0.015)
