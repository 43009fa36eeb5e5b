from pathlib import Path

import pytest
import yaml

from kdasr.common.configio import build_config, config_to_dict, save_yaml
from kdasr.common.errors import UserError
from kdasr.common.ranges import options_of
from kdasr.data.data_config import DataConfig
from kdasr.experiment.config import ExperimentConfig, LanguageModelExperiment
from kdasr.experiment.differences import differences, identity_of
from kdasr.experiment.recipe_file import load_experiment
from kdasr.experiment.saved_config import claim_folder, load_saved_experiment, save_experiment
from kdasr.language_model.text import TextConfig
from kdasr.nn.context import Context, ContextChoice

RECIPE = {
    "training": {"log_every": 7},
    "systems": {
        "teacher": None,
        "student": {
            "contexts": [{"left": 8, "chunk": 4}, {"left": 8, "chunk": 2}],
            "objective": {"teacher": "teacher"},
            "stages": [{"name": "hidden", "num_steps": 3, "loss_weights": {"hidden_mse": 1.0}}],
        },
    },
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE, sort_keys=False))
    return path


def test_a_system_is_the_shared_options_and_its_own(recipe: Path) -> None:
    teacher, student = load_experiment(recipe, "teacher"), load_experiment(recipe, "student")
    assert teacher.name == "teacher" and student.name == "student"
    assert teacher.training.log_every == student.training.log_every == 7
    assert teacher.contexts == [Context.full()]
    assert student.contexts == [Context(8, 4), Context(8, 2)]
    # A stage's weights are those of the recipe and not merged with the defaults.
    assert student.stages[0].loss_weights == {"hidden_mse": 1.0}


def test_a_stage_without_weights_trains_the_transducer(recipe: Path) -> None:
    config = load_experiment(recipe, "teacher", ("stages=[{name: train, num_steps: 2}]",))
    assert [stage.loss_weights for stage in config.stages] == [{"rnnt": 1.0, "ctc": 0.3}]
    assert load_experiment(recipe, "teacher").stages[0].loss_weights == {"rnnt": 1.0, "ctc": 0.3}


def test_overrides_win(recipe: Path) -> None:
    overrides = (
        *("training.optim.learning_rate=5e-4", "data.train_parts=[a,b]", "seed=9"),
        *("stages.0.num_steps=8", "stages.0.loss_weights={ctc: 2.0}"),
    )
    config = load_experiment(recipe, "student", overrides)
    assert config.training.optim.learning_rate == 5e-4
    assert config.data.train_parts == ["a", "b"] and config.seed == 9
    assert config.stages[0].num_steps == 8 and config.stages[0].loss_weights == {"ctc": 2.0}


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ({"trainig": {"log_every": 7}}, "trainig"),
        ({"training": {"log_evry": 7}}, r"training\.log_evry"),
        ({"training": {"log_every": "often"}}, r"training\.log_every"),
        ({"training": {"optim": {"betas": 3}}}, r"training\.optim\.betas"),
        ({"model": {"encoder": {"dim": [1, 2]}}}, r"model\.encoder\.dim"),
        ({"data": 5}, "'data'"),
        ({"model": {"joiner_dim": 8, "encoder": 7}}, r"'model\.encoder'"),
        ({"contexts": [{"left": 3}]}, "context"),
        ({"contexts": []}, "contexts"),
        ({"stages": []}, "stages"),
        ({"stages": [{"name": "a"}, {"name": "a"}]}, "repeat"),
        ({"stages": [{"name": "a"}]}, "'a': expected one of num_steps, num_epochs, num_hours, found none"),
        ({"stages": [{"num_steps": 4, "num_hours": 2}]}, "'train': .*found num_steps: 4, num_hours: 2"),
        (
            {"stages": [{"num_steps": 4, "warmup_steps": 2, "warmup_hours": 2}]},
            "warmup_steps and warmup_hours",
        ),
        ({"stages": [{"name": "a/b", "num_steps": 4, "loss_weights": {"ctc": 1.0}}]}, "a/b"),
        ({"stages": [{"num_stepz": 3}]}, "num_stepz"),
        ({"stages": [{"num_steps": 4, "loss_weights": {"rnt": 1.0}}]}, "rnt"),
        ({"stages": [{"num_steps": 4, "loss_weights": {"output_kl": 1.0}}]}, r"objective\.teacher"),
        (
            {"stages": [{"num_steps": 4, "plateau_patience": 2, "loss_weights": {"ctc": 1.0}}]},
            "plateau_patience",
        ),
    ],
)
def test_mistakes_name_the_option_and_the_file(tmp_path: Path, change: dict, culprit: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(UserError, match=culprit) as caught:
        load_experiment(path)
    assert "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "culprit"),
    [
        ("training.log_evry=3", "log_evry"),
        ("seed=many", "seed"),
        ("seed", "'seed': expected KEY=VALUE"),
        ("=3", "=3"),
        ("seed=[3", r"'seed=\[3'"),
        ("stages.7.num_steps=3", "stages"),
    ],
)
def test_wrong_overrides_are_named(recipe: Path, override: str, culprit: str) -> None:
    with pytest.raises(UserError, match=culprit):
        load_experiment(recipe, "teacher", (override,))


def test_files_that_are_no_recipe_are_named(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        load_experiment(tmp_path / "nowhere.yaml")
    for text in ("a: [1", "- 1\n- 2\n", ""):
        recipe.write_text(text)
        with pytest.raises(UserError, match=r"recipe\.yaml"):
            load_experiment(recipe)


def test_systems_must_be_named_and_exist(recipe: Path) -> None:
    with pytest.raises(UserError, match="teacher, student"):
        load_experiment(recipe)
    with pytest.raises(UserError, match=r"'studnet'.*teacher, student"):
        load_experiment(recipe, "studnet")


def test_a_folder_belongs_to_one_configuration(recipe: Path, tmp_path: Path) -> None:
    config = load_experiment(recipe, "student")
    claim_folder(config, tmp_path / "exp")
    claim_folder(config, tmp_path / "exp")
    assert load_saved_experiment(tmp_path / "exp") == config
    other = load_experiment(recipe, "student", ("stages.0.num_steps=2",))
    with pytest.raises(UserError, match=r"exp.*stages\.0\.num_steps: 3.*num_steps: 2.*--exp"):
        claim_folder(other, tmp_path / "exp")
    longer = load_experiment(recipe, "student", ("stages.0.num_steps=4",))
    assert list(map(str, claim_folder(longer, tmp_path / "exp"))) == ["stages.0.num_steps: 3 -> 4"]
    with pytest.raises(UserError, match="holds a run with name: student"):
        claim_folder(LanguageModelExperiment(), tmp_path / "exp")


def test_only_options_that_keep_the_model_may_change(tmp_path: Path) -> None:
    began = ExperimentConfig(data=DataConfig(dir="old"))
    claim_folder(began, tmp_path)
    free = {path for path, declared in options_of(ExperimentConfig) if declared.may_change}
    assert free >= {
        "data.dir", "data.num_workers", "training.accelerator", "training.log_every",
        "training.recompute_layers", "training.num_threads", "objective.teacher",
    }  # fmt: skip
    assert not free & {"seed", "data.max_duration", "training.precision", "training.optim.learning_rate"}
    assert "training.keep_last" not in free  # the next stage starts from so many
    changes = ("data.dir=new", "data.num_workers=4", "training.log_every=7", "training.accelerator=cpu")
    now = build_config(ExperimentConfig, config_to_dict(began), overrides=changes)
    found = claim_folder(now, tmp_path)
    assert [str(item) for item in found] == [
        "data.dir: old -> new", "data.num_workers: 0 -> 4", "training.accelerator: auto -> cpu",
        "training.log_every: 50 -> 7",
    ]  # fmt: skip
    assert load_saved_experiment(tmp_path) == began
    nobody = build_config(ExperimentConfig, config_to_dict(began), overrides=("objective.follow_lead=0.5",))
    assert [item.key for item in claim_folder(nobody, tmp_path)] == ["objective.follow_lead"]
    taught = ("objective.teacher=teacher", "objective.follow_lead=0.5")
    followed = build_config(ExperimentConfig, config_to_dict(began), overrides=taught)
    with pytest.raises(UserError, match=r"objective\.follow_lead"):
        claim_folder(followed, tmp_path)
    texts = LanguageModelExperiment(data=TextConfig(train_text=["a.txt"]))
    claim_folder(texts, tmp_path / "lm")
    moved = LanguageModelExperiment(data=TextConfig(train_text=["b/a.txt"]))
    assert [item.key for item in claim_folder(moved, tmp_path / "lm")] == ["data.train_text.0"]


def test_the_identity_of_a_run_is_what_changes_the_model() -> None:
    plain, other = ExperimentConfig(), ExperimentConfig()
    other.training.log_every, other.data.num_workers = 3, 5
    same = [identity_of(ExperimentConfig, config_to_dict(config)) for config in (plain, other)]
    assert same[0] == same[1] and "optim" in same[0]["training"] and same[0]["data"]["dir"] == "data"
    other.seed = 2
    assert identity_of(ExperimentConfig, config_to_dict(other)) != same[0]


def test_an_option_that_is_new_since_the_run_counts_with_its_default(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    save_yaml(ExperimentConfig(), path)
    saved = yaml.safe_load(path.read_text())
    del saved["training"]["keep_last"]
    path.write_text(yaml.safe_dump(saved))
    claim_folder(ExperimentConfig(), tmp_path)


def test_differences_have_a_dotted_name_and_both_values() -> None:
    old = {"a": 1, "b": {"c": [1, {"d": 2}]}}
    assert list(differences(old, old)) == []
    assert list(differences(old, {"a": 2, "b": {"c": [1, {"d": 3}]}})) == [("a", 1, 2), ("b.c.1.d", 2, 3)]
    assert list(differences(old, {"a": 1, "b": {"c": [1]}})) == [("b.c", [1, {"d": 2}], [1])]
    assert list(differences(old, {"a": 1, "b": {"c": [1, {"d": 2}]}, "e": 5})) == [("e", None, 5)]


@pytest.mark.parametrize(
    ("systems", "culprit"),
    [
        ([1], "systems: expected a mapping"),
        ("x", "systems: expected"),
        ({"teacher": [1]}, r"systems\.teacher"),
    ],
)
def test_systems_that_are_no_mapping_are_named(tmp_path: Path, systems: object, culprit: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({"systems": systems}))
    with pytest.raises(UserError, match=rf"wrong\.yaml: {culprit}"):
        load_experiment(path, "teacher")


def test_systems_without_a_name_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text("systems: {1: {}, null: {}}\n")
    with pytest.raises(UserError, match="name one of its systems: 1, None"):
        load_experiment(path)


CHOICE = {"left": [8, 16], "chunk": [4, 2], "right": [0, 1], "full_probability": 0.5}


def _load(tmp_path: Path, recipe: dict, system: str | None = None, *overrides: str) -> ExperimentConfig:
    path = tmp_path / "choice.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_experiment(path, system, overrides)


def test_contexts_may_be_drawn_part_by_part(tmp_path: Path) -> None:
    config = _load(tmp_path, {"contexts": CHOICE})
    assert config.context_choice == ContextChoice([8, 16], [4, 2], [0, 1], 0.5)
    assert config.contexts == [Context(8, 4, 0)]
    evaluated = [{"left": 16, "chunk": 2, "right": 1}, {}]
    config = _load(tmp_path, {"contexts": {**CHOICE, "evaluate": evaluated}}, None, "contexts.chunk=[2,8]")
    assert config.contexts == [Context(16, 2, 1), Context.full()]
    assert config.context_choice == ContextChoice([8, 16], [2, 8], [0, 1], 0.5)
    save_experiment(config, tmp_path)
    assert load_saved_experiment(tmp_path) == config
    assert claim_folder(config, tmp_path) == []


def test_a_system_takes_one_form_of_contexts_or_the_other(tmp_path: Path) -> None:
    fixed, drawn = [{"left": 4, "chunk": 2}], {"left": [4], "chunk": [1, 2]}
    recipe = {"contexts": CHOICE, "systems": {"fixed": {"contexts": fixed}, "drawn": {"contexts": drawn}}}
    own = _load(tmp_path, recipe, "fixed")
    assert (
        not own.context_choice and own.context_choice == ContextChoice() and own.contexts == [Context(4, 2)]
    )
    own = _load(tmp_path, recipe, "drawn")
    # What a system does not say is that of all systems.
    assert own.context_choice == ContextChoice([4], [1, 2], [0, 1], 0.5) and own.contexts == [Context(4, 1)]
    own = _load(tmp_path, {**recipe, "contexts": fixed}, "drawn")
    assert own.context_choice == ContextChoice([4], [1, 2])


@pytest.mark.parametrize(
    ("shared", "own", "evaluated"),
    [
        ({"left": [8], "chunk": [4, 2]}, {"chunk": [2, 1]}, [Context(8, 2)]),
        ({"left": [8], "chunk": [4, 2]}, {"right": [3, 1]}, [Context(8, 4, 3)]),
        ({"left": [8]}, {"chunk": [4]}, [Context(8, 4)]),
        ({"left": [8], "chunk": [4], "evaluate": [{}]}, {"chunk": [2]}, [Context.full()]),
        ({"left": [8], "chunk": [4], "evaluate": [{}]}, {"left": [8], "chunk": [2]}, [Context(8, 2)]),
    ],
)
def test_without_more_the_first_values_are_evaluated_whoever_names_them(
    tmp_path: Path, shared: dict, own: dict, evaluated: list[Context]
) -> None:
    recipe = {"contexts": shared, "systems": {"own": {"contexts": own}}}
    assert _load(tmp_path, recipe, "own").contexts == evaluated


def test_a_number_in_a_key_changes_one_part_of_one_context(tmp_path: Path) -> None:
    both = [{"left": 8, "chunk": 4}, {"left": 8, "chunk": 2}]
    for contexts in (both, {**CHOICE, "evaluate": both}):
        config = _load(tmp_path, {"contexts": contexts}, None, "contexts.1.chunk=3", "contexts.1.right=1")
        assert config.contexts == [Context(8, 4), Context(8, 3, 1)]
    for wrong in ("contexts.1.chunk=0", "contexts.1.length=2", "contexts.7.chunk=2", "contexts.0.0.chunk=2"):
        with pytest.raises(UserError, match=r"choice\.yaml: "):
            _load(tmp_path, {"contexts": both}, None, wrong)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        ({**CHOICE, "middle": [1]}, "contexts: no option 'middle'"),
        ({**CHOICE, "chunk": []}, "contexts: expected both left and chunk"),
        ({**CHOICE, "left": []}, "contexts: expected both left and chunk"),
        ({"chunk": [4]}, "contexts: expected both left and chunk"),
        ({"full_probability": 0.5}, "contexts: expected both left and chunk"),
        ({"right": [1]}, "contexts: expected both left and chunk"),
        ({**CHOICE, "left": [-1]}, "context_choice.left"),
        ({**CHOICE, "full_probability": 1.5}, "context_choice.full_probability"),
        ({**CHOICE, "evaluate": []}, "contexts"),
        ({**CHOICE, "evaluate": [{}, {"left": 8, "chunk": 4}, {}]}, "contexts: evaluate names full twice"),
        ({**CHOICE, "right": 3}, "context_choice.right"),
    ],
)
def test_wrong_choices_of_contexts_are_named(tmp_path: Path, contexts: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _load(tmp_path, {"contexts": contexts})


def test_every_context_that_may_be_drawn_is_one_that_the_encoder_can_have(tmp_path: Path) -> None:
    model = {"encoder": {"type": "zipformer2", "causal": True, "downsampling_factor": [1, 4]}}
    with pytest.raises(UserError, match="chunk=3"):
        _load(tmp_path, {"model": model, "contexts": {"left": [8], "chunk": [4, 3]}})


def test_a_second_copy_and_a_teacher_do_not_go_together(tmp_path: Path) -> None:
    weights = {"rnnt": 0.5, "rnnt_remasked": 0.5, "cr_ctc": 0.1}
    stages = [{"name": "a", "num_steps": 1, "loss_weights": weights}]
    assert _load(tmp_path, {"stages": stages}).stages[0].loss_weights == weights
    stages.append({"name": "b", "num_steps": 1, "loss_weights": {"hidden_mse": 1.0}})
    with pytest.raises(UserError, match=r"stage 'a' has .*cr_ctc.* not for students of a teacher"):
        _load(tmp_path, {"stages": stages, "objective": {"teacher": "teacher"}})
