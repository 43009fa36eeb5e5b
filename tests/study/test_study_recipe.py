"""The rows of a recipe: what is refused, and what a learning rate does to a system of several stages."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from study_helpers import recipe, write_recipe

from kdasr.common.errors import UserError
from kdasr.study.plan import Planner, select_rows, with_learning_rate
from kdasr.study.recipe import load_recipe

CONF = Path(__file__).parents[2] / "egs" / "librispeech" / "conf"
ROWS = recipe()["results"]["rows"]
CIRCLE = [("one", "two"), ("two", "one")]


def test_the_rows_of_the_recipe_load() -> None:
    loaded = load_recipe(CONF / "results.yaml")
    results = loaded.results
    assert min(len(results.seeds_of(row)) for row in results.rows) >= 3
    # Without distillation: from a streaming model, that itself, from the teacher's weights, as long as both.
    _, start, warm, longer = results.baselines
    inits = [results.rows[name].init for name in results.baselines]
    assert inits == [start, "scratch", "teacher", start]
    for name in results.baselines:
        terms = {term for stage in loaded.systems[name].stages for term in stage.loss_weights}
        assert terms == {"rnnt", "ctc"}
    assert loaded.systems[results.topline].contexts[0].is_full

    def steps(row: str) -> int:
        return sum(stage.num_steps for stage in loaded.systems[row].stages)

    assert steps(longer) == steps(results.topline) + steps(warm)


def test_settings_of_a_row_are_on_top_of_its_system(tmp_path: Path) -> None:
    rows = ROWS | {
        "smoothed": {
            "system": "two-stage",
            "settings": {
                "objective": {"output": {"rule": "entropy"}},
                "stages.1.loss_weights": {"output_kl": 0.1},
            },
        }
    }
    systems = load_recipe(write_recipe(tmp_path / "conf.yaml", rows=rows)).systems
    changed, usual = systems["smoothed"], systems["two-stage"]
    everywhere = load_recipe(
        tmp_path / "conf.yaml", ["model.joiner_dim=8", "objective.output.rule=confidence"]
    )
    assert {system.model.joiner_dim for system in everywhere.systems.values()} == {8}
    assert everywhere.systems["two-stage"].objective.output.rule == "confidence"
    assert everywhere.systems["smoothed"].objective.output.rule == "entropy"
    assert changed.objective.output.rule == "entropy" != usual.objective.output.rule
    assert changed.objective.teacher == usual.objective.teacher == "teacher"
    assert changed.stages[1].loss_weights == {"output_kl": 0.1}
    assert changed.stages[0] == usual.stages[0]


def test_a_row_starts_from_a_system_that_was_trained_elsewhere(tmp_path: Path) -> None:
    """By the path that it would have if its system were trained in the folder of the results."""
    for named in ("../other/teacher", str(tmp_path / "other" / "teacher")):
        settings = {"stages.0.init_from": named}
        conf = write_recipe(
            tmp_path / "conf.yaml",
            rows=ROWS | {"mine": {"system": "streaming", "init": "own", "settings": settings}},
        )
        run = Planner(load_recipe(conf), tmp_path / "data", tmp_path / "exp").run("mine", 2, None)
        start = run.config.stages[0].init_from
        assert start is not None
        assert (run.folder.parent / start).resolve() == (tmp_path / "other" / "teacher").resolve()
        assert not run.needs


def rows_with(**row: Any) -> dict[str, Any]:
    return {"rows": ROWS | {"mine": {"system": "streaming", **row}}}


@pytest.mark.parametrize(
    ("results", "culprits"),
    [
        ({"rows": {}}, ["rows"]),
        ({"seed": [1]}, ["seed"]),
        ({"seeds": [1, 1]}, ["seeds"]),
        (rows_with(num_seeds=3), ["mine", "num_seeds 3", "to 2"]),
        (rows_with(num_seeds=-1), ["rows.mine.num_seeds' is -1"]),
        (rows_with(against=["ghost"]), ["ghost"]),
        (rows_with(init="own"), ["mine", "init 'own'", "no init_from"]),
        ({"rank_against": "nothing"}, ["nothing"]),
        ({"topline": "nothing"}, ["nothing"]),
        # By their former names.
        ({"bound": "teacher"}, ["'bound' is called 'topline'"]),
        ({"shipped": "two-stage"}, ["'shipped' is called 'rank_against'"]),
        (rows_with(rate_of="streaming"), ["mine", "rate_of 'streaming'", "tuned"]),
        (
            {"tune": [{"rows": [*list(ROWS)[1:], "mine"], "learning_rate": [1e-3]}]}
            | rows_with(rate_of="streaming"),
            ["mine", "one of the references"],
        ),
        (
            {
                "references": ["longer"],
                "tune": [{"rows": [*list(ROWS)[1:], "mine"], "learning_rate": [1e-3, 2e-3]}],
                "rows": rows_with(init="longer")["rows"]
                | {"longer": {"system": "streaming", "rate_of": "streaming"}},
            },
            ["mine", "needs 'longer'", "rate_of"],
        ),
        ({"order": "random"}, ["order", "random"]),
        ({"baselines": ["nothing"]}, ["nothing"]),
        (rows_with(init="nowhere"), ["mine", "nowhere"]),
        (rows_with(system="ghost"), ["ghost"]),
        (rows_with(settings={"objectve": 1}), ["objectve"]),
        (rows_with(settings={"stages.0.num_steps": 7}), ["mine", "steps 7", "streaming"]),
        (rows_with(system="two-stage", settings={"stages.0.plateau_patience": 3}), ["mine", "plateau"]),
        (rows_with(settings={"model.joiner_dim": 8}), ["mine", "model"]),
        (rows_with(settings={"model.encoder.lookahead": "mask"}), ["mine", "lookahead"]),
        (rows_with(settings={"contexts": [{"left": 8, "chunk": 2}]}), ["mine", "first context"]),
        (rows_with(settings={"contexts": [{}]}), ["mine", "first context"]),
        ({"tune": [{"rows": ["streaming"], "learning_rate": [1e-3, 2e-3]}]}, ["streaming-init", "equally"]),
        ({"tune": [{"rows": ["teacher"], "learning_rate": [1e-3]}]}, ["teacher"]),
        ({"tune": [{"rows": list(ROWS)[1:], "learning_rate": []}]}, ["equally"]),
        (rows_with(init="streaming"), ["mine", "streaming", "scratch or teacher"]),
        ({"references": ["nothing"]}, ["nothing"]),
        (
            {"references": ["streaming"], "tune": [{"rows": ["streaming"], "learning_rate": [1e-3]}]},
            ["references"],
        ),
        ({"rows": ROWS | {"teacher": {"init": "teacher"}}}, ["teacher", "itself"]),
        (
            {
                "references": ["one", "two"],
                "rows": ROWS | {name: {"system": "streaming", "init": other} for name, other in CIRCLE},
            },
            ["one", "itself"],
        ),
        (
            {"references": ["mine"], "rows": ROWS | {
                "teacher": {"init": "mine"}, "mine": {"system": "two-stage"}}},
            ["mine", "learns from 'teacher'"],
        ),
        (
            {"references": ["two-stage"], "rows": ROWS | {"teacher": {"init": "two-stage"}}},
            ["two-stage", "itself"],
        ),
        ({"tune": [{"rows": ["streaming"] * 2, "learning_rate": [1e-3]}]}, ["'tune.0.rows'", "twice"]),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_by_name(
    tmp_path: Path, results: dict[str, Any], culprits: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(write_recipe(tmp_path / "conf.yaml", **results))
    for culprit in (str(tmp_path / "conf.yaml"), *culprits):
        assert culprit in str(caught.value)


def test_a_recipe_without_rows_is_refused(tmp_path: Path) -> None:
    content = recipe()
    del content["results"]
    (tmp_path / "conf.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="rows"):
        load_recipe(tmp_path / "conf.yaml")


def test_tuned_rates_keep_the_ratio_between_stages(tmp_path: Path) -> None:
    usual = load_recipe(write_recipe(tmp_path / "conf.yaml")).systems["two-stage"]
    tried = with_learning_rate(usual, 3e-3)
    # 1e-3 in the first stage, which has none of its own, and 5e-4 in the second.
    assert tried.training.optim.learning_rate == 3e-3
    assert [stage.learning_rate for stage in tried.stages] == [None, 1.5e-3]
    own = with_learning_rate(with_first_stage(usual, 2e-3), 3e-3)
    assert own.stages[0].learning_rate == 3e-3 and own.stages[1].learning_rate == 7.5e-4
    assert usual.stages[1].learning_rate == 5e-4


def with_first_stage(config: Any, value: float) -> Any:
    from dataclasses import replace

    return replace(config, stages=[replace(config.stages[0], learning_rate=value), *config.stages[1:]])


def test_chosen_rows_bring_their_teacher(tmp_path: Path) -> None:
    results = load_recipe(write_recipe(tmp_path / "conf.yaml")).results
    assert select_rows(results, ["two-stage", "streaming"]) == ["teacher", "streaming", "two-stage"]
    assert select_rows(results, []) == list(ROWS)
    with pytest.raises(UserError, match="ghost"):
        select_rows(results, ["ghost"])


def test_references_have_steps_of_their_own(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "teacher": {"init": "first"},
        "first": {"system": "streaming", "settings": {"stages.0.num_steps": 9}},
        "longer": {"system": "streaming", "init": "first", "settings": {"stages.0.num_steps": 7}},
        **{name: row for name, row in ROWS.items() if name != "teacher"},
    }
    results = load_recipe(
        write_recipe(tmp_path / "conf.yaml", rows=rows, references=["first", "longer"])
    ).results
    assert select_rows(results, ["two-stage"]) == ["teacher", "first", "two-stage"]
    assert results.teacher_chain() == ["teacher", "first"]
    assert [row for row in rows if results.is_student(row)] == ["streaming", "streaming-init", "two-stage"]


def test_the_section_report_says_what_the_results_leave_open(tmp_path: Path) -> None:
    content = recipe()
    content["report"]["baselines"] = ["streaming", "not-a-row"]
    path = tmp_path / "conf.yaml"
    path.write_text(yaml.safe_dump(content))
    results = load_recipe(path).results
    assert (results.topline, results.baselines) == ("teacher", ["streaming"])
    content["report"]["teacher"] = "not-a-row"
    content["results"] |= {"topline": "teacher", "baselines": ["two-stage"]}
    path.write_text(yaml.safe_dump(content))
    results = load_recipe(path).results
    assert (results.topline, results.baselines) == ("teacher", ["two-stage"])
    del content["report"], content["results"]["topline"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="no topline"):
        load_recipe(path)
