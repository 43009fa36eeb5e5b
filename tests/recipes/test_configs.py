"""Every shipped configuration loads, for every system, and describes a fair comparison."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kdasr.common.configio import load_yaml
from kdasr.data.augment import generator_for, spec_augment
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.distillation.objective_config import LENGTHS
from kdasr.distillation.unpaired_terms import is_searched, learns_unpaired
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.recipe_file import load_experiment
from kdasr.models.transducer.build import build_transducer
from kdasr.study.recipe import load_recipe

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
    encoder = config.model.encoder
    if hasattr(encoder, "dropout"):
        encoder = replace(encoder, dropout=0.0)
    return replace(config.model, encoder=encoder), replace(config.data, spec_augment=SpecAugmentConfig())


@pytest.mark.parametrize("path", [*FILES, *CONF.glob("whisper/*.yaml")], ids=lambda path: path.stem)
def test_speech_without_word_times_can_be_trained_on(path: Path) -> None:
    """But for the studies of corpora that are made with word times."""
    if path.stem in ("results", "connected-words"):
        return
    for system in load_yaml(path)["systems"]:
        rnnt = load_experiment(path, system).objective.rnnt
        assert not rnnt.is_restricted or rnnt.without_word_times == "ignore", system


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_unified_student_differs_by_its_chunks_only(path: Path) -> None:
    unified, fixed = load_experiment(path, "unified"), load_experiment(path, "streaming-init")
    assert unified.contexts[0] == fixed.contexts[0]
    multiple = getattr(unified.model.encoder, "frame_multiple", 2) // 2
    chunks = [chunk for chunk in (2, 4, 8, 16, 32) if chunk % multiple == 0]
    assert sorted(context.chunk for context in unified.contexts) == chunks
    assert {(context.left, context.right) for context in unified.contexts} == {(fixed.contexts[0].left, 0)}
    assert (unified.stages, unified.model, unified.data, unified.training, unified.objective) == (
        *(fixed.stages, fixed.model, fixed.data, fixed.training, fixed.objective),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_method_is_hidden_states_first_then_outputs(path: Path) -> None:
    first, second = load_experiment(path, "two-stage").stages
    assert "hidden_mse" in first.loss_weights and "output_kl" not in first.loss_weights
    assert "output_kl" in second.loss_weights


@pytest.mark.parametrize("stem", ["unified", "demo"])
def test_one_model_for_every_latency_is_compared_at_equal_steps_under_equal_waits(stem: str) -> None:
    recipe = load_recipe(CONF / "unified" / f"{stem}.yaml")
    students = {row: recipe.systems[row] for row in recipe.results.rows if recipe.results.is_student(row)}
    waits = [
        {s.model.geometry.wait_frames(context) for context in s.contexts if not context.is_full}
        for s in students.values()
    ]
    assert len({tuple(length(config).values()) for config in students.values()}) == 1
    alone = {row for row, config in recipe.results.rows.items() if config.line == "separate"}
    for row, found in zip(students, waits, strict=True):
        expected = {int(row.removeprefix("separate-")) // 40} if row in alone else {2, 4, 8, 16, 32}
        # A look-ahead that grows waits for three chunks more, of four layers.
        assert found == ({2, 4, 10, 20, 40} if row == "dynamic-right-mask" else expected), row
        assert students[row].contexts[-1].is_full == (row not in alone)
    assert {row: "mode_kl" in config.stages[-1].loss_weights for row, config in students.items()} == {
        row: "mcr" in row for row in students
    }


def test_students_of_a_tenth_of_the_transcripts_are_those_of_the_demo_but_for_the_rest() -> None:
    recipe, demo = load_recipe(CONF / "unpaired" / "demo.yaml"), CONF / "demo.yaml"
    for name, share in (
        ("teacher", 1.0),
        ("streaming-init", 0.1),
        ("two-stage", 0.1),
        ("two-stage-unpaired", 0.1),
    ):
        own = recipe.systems[name]
        plain = load_experiment(demo, name.removesuffix("-unpaired"))
        assert own.data.train_share == share
        assert own.model == plain.model and own.data.spec_augment == plain.data.spec_augment
        assert (own.contexts, own.stages, own.training) == (plain.contexts, plain.stages, plain.training)
        assert learns_unpaired(own.unpaired) == name.endswith("unpaired")
    searched = {row: is_searched(own.stages, own.unpaired) for row, own in recipe.systems.items()}
    assert {row for row, says in searched.items() if says} == {"two-stage-unpaired", "labels-only"}


@pytest.mark.parametrize(
    ("stem", "low", "high"),
    [
        ("tiny", 2e4, 2e5),
        ("demo", 1.3e6, 1.6e6),
        ("demo-zipformer", 1.3e6, 1.7e6),
        ("librispeech", 70e6, 90e6),
        ("librispeech-zipformer", 65.5e6, 67e6),
    ],
)
def test_models_have_the_stated_size(stem: str, low: float, high: float) -> None:
    recipe = load_experiment(CONF / f"{stem}.yaml", "teacher")
    config = replace(recipe.model, vocab_size=recipe.data.vocab_size)
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
