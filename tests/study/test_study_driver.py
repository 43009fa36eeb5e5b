"""The driver over a stand-in for `kdasr`: what starts from what, how rates are chosen, what is left."""

import gzip
import json
import shutil
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from study_helpers import calls, make_study, write_data

from kdasr.common.errors import UserError
from kdasr.study.driver import (
    Options,
    chosen_rates,
    collect,
    describe_plan,
    fixed_rates,
    rows_to_repeat,
    run_study,
)
from kdasr.study.evidence_brief import brief
from kdasr.study.jobs import Study, data_digest
from kdasr.study.plan import Planner
from kdasr.study.recipe import load_recipe
from kdasr.study.write import write_results

SYSTEMS = {"streaming": "streaming", "streaming-init": "streaming", "two-stage": "two-stage"}
TUNE = [
    {"rows": ["streaming"], "learning_rate": [4e-3, 2e-3]},
    {"rows": ["streaming-init", "two-stage"], "learning_rate": [2e-3, 3e-3]},
]


def quiet(text: str) -> None:
    pass


def conf(study: Study, run: str) -> dict[str, Any]:
    """The options that a run was started with."""
    return yaml.safe_load((study.exp / "conf" / f"{run}.yaml").read_text())


def test_every_seed_trains_from_the_teacher_of_its_seed(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    report = run_study(study, Options(num_jobs=2, upto="dev"), quiet)
    assert not report.failed
    trained = [line.split()[-1] for line in calls(tmp_path) if line.startswith("train")]
    rows = ("teacher", "streaming", "streaming-init", "two-stage")
    assert sorted(trained) == sorted(str(study.exp / f"seed-{seed}" / row) for seed in (1, 2) for row in rows)
    for seed in (1, 2):
        scratch, warm = conf(study, f"seed-{seed}/streaming"), conf(study, f"seed-{seed}/streaming-init")
        assert scratch["seed"] == warm["seed"] == seed
        assert scratch["stages"][0]["init_from"] is None
        assert warm["stages"][0]["init_from"] == "teacher"
        student = conf(study, f"seed-{seed}/two-stage")
        assert student["objective"]["teacher"] == student["stages"][0]["init_from"] == "teacher"
        assert student["stages"][1]["init_from"] is None and student["name"] == "two-stage"
    assert not any("test-clean" in line for line in calls(tmp_path))


def test_rows_are_decoded_by_further_searches(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("TESS\n")
    path = str(tmp_path / "names.txt")
    rows = {"teacher": None, "two-stage": {"init": "teacher"}}
    made = make_study(tmp_path, rows=rows, baselines=[], searches={"ngram": {"beam": 8, "lm": "3gram.arpa"}})
    overrides = (f"results.searches.names.biasing={path}", "results.searches.names.blank_penalty=2.0")
    planner = Planner(load_recipe(tmp_path / "conf.yaml", overrides), made.data, made.exp)
    study = Study(planner, made.kdasr)
    with pytest.raises(UserError, match=r"3gram\.arpa: not there: results\.searches\.ngram\.lm names it"):
        run_study(study, Options(num_jobs=1, upto="test"), quiet)
    (study.data / "3gram.arpa").write_text("an n-gram")
    run_study(study, Options(num_jobs=2, upto="test"), quiet)
    decodes = [line for line in calls(tmp_path) if line.startswith("decode")]
    ngram = f"--search beam --beam 8 --lm-scale 0.3 --lm {study.data / '3gram.arpa'} --mode"
    names = f"--search beam --beam 4 --blank-penalty 2.0 --biasing {path} --mode"
    # Two seeds of two rows, dev and test parts.
    for options, number in ((ngram, 8), (names, 8), ("--search", 16), ("decode ", 24)):
        assert sum(options in line for line in decodes) == number, options
    found = {variant: collect(study, "test", variant) for variant in ("", "-ngram", "-names")}
    for greedy, other in zip(found[""].results, found["-ngram"].results, strict=True):
        assert other.wer == 2 * greedy.wer  # so the stand-in has it
    assert [run.info for run in found["-names"].runs] == [run.info for run in found[""].runs]
    said = list(write_results(study, "test", "kdasr results", None))
    assert f"{study.exp / 'comparisons-ngram.json'}: 4 runs" in said
    written = (study.exp / "results.md").read_text()
    assert "Beam search (8 hypotheses, `3gram.arpa` by shallow fusion, scale 0.3), in every row." in written
    assert "#### By the search `names`" in written and "the phrases of `names.txt`), in every row." in written
    (tmp_path / "names.txt").write_text("OTHER\n")
    before = len(calls(tmp_path))
    study = Study(planner, made.kdasr)  # as the next command has it
    run_study(study, Options(num_jobs=2, upto="test"), quiet)
    again = calls(tmp_path)[before:]
    assert len(again) == 8 and all(names in line for line in again)
    folder = study.exp / "seed-1" / "two-stage" / "decode-names" / "streaming" / "test-clean"
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "biasing_sha256": None}))
    with pytest.raises(UserError, match="test-clean: decoded without --biasing"):
        collect(study, "test", "-names")


def test_a_language_model_that_is_trained_anew_is_another_search(tmp_path: Path) -> None:
    weights = tmp_path / "data" / "model" / "checkpoints" / "averaged.pt"

    def settings() -> Any:
        study = make_study(tmp_path, searches={"fused": {"lm": "model"}})
        runs = study.planner.runs(["two-stage"], chosen_rates(study))
        return {job.name: job.settings for job in study.jobs(runs, "dev")}["seed-1/two-stage.dev-fused"]

    write_data(tmp_path / "data")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    before = settings()
    assert settings() == before
    weights.write_bytes(b"others")
    assert settings() != before


@pytest.mark.parametrize("name", ["lm", "contexts", "A b"])
def test_a_search_has_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"searches: '{name}': expected small letters"):
        make_study(tmp_path, searches={name: {"beam": 8}})


def test_a_teacher_comes_before_its_students_and_is_decoded_offline(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run_study(study, Options(num_jobs=3, upto="dev"), quiet)
    lines = calls(tmp_path)
    for seed in ("seed-1", "seed-2"):
        averaged = lines.index(f"average {study.exp / seed / 'teacher'}")
        for row in ("streaming-init", "two-stage"):
            begun = [line.startswith("train") and line.endswith(f"{seed}/{row}") for line in lines].index(
                True
            )
            assert averaged < begun
    teacher = str(study.exp / "seed-2" / "teacher")
    decodes = {line.split()[1]: line.split()[-1] for line in lines if line.startswith("decode")}
    assert decodes.pop(teacher) == decodes.pop(teacher.replace("seed-2", "seed-1")) == "offline"
    assert set(decodes.values()) == {"streaming"}


def test_runs_are_calibrated_on_dev_before_they_are_decoded(tmp_path: Path) -> None:
    study = make_study(tmp_path, calibrate=True)
    run_study(study, Options(num_jobs=2, upto="test"), quiet)
    lines = calls(tmp_path)
    trained = {line.split()[-1] for line in lines if line.startswith("train")}
    for run in trained:
        own = [line for line in lines if line.startswith(("calibrate", "decode")) and line.split()[1] == run]
        assert own[0].startswith("calibrate") and all(line.startswith("decode") for line in own[1:])
        assert "dev-clean" in own[0] and "test-clean" not in own[0] and "test-clean" in own[-1]
    assert trained and not any(line.startswith("calibrate") for line in _calls_without(tmp_path / "plain"))


def _calls_without(folder: Path) -> list[str]:
    folder.mkdir()
    run_study(make_study(folder), Options(upto="dev"), quiet)
    return calls(folder)


@pytest.mark.parametrize("gpus", [0, 1, 2])
def test_a_job_has_a_process_for_each_of_its_gpus(tmp_path: Path, gpus: int) -> None:
    study = replace(make_study(tmp_path), gpus=gpus)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python")
    before = (sys.executable, *launcher, *study.kdasr) if gpus == 2 else study.kdasr
    for job in study.jobs(study.planner.runs(["teacher", "streaming"], fixed_rates(study)), "test"):
        first, *others = job.commands
        assert first[: len(before)] == before and first[len(before)] in ("train", "decode")
        assert (first[-2:] == ("--device", "cuda")) == (gpus > 0 and "decode" in first)
        assert all(command[: len(study.kdasr)] == study.kdasr for command in others)


def test_a_teacher_that_all_seeds_share_is_trained_once(tmp_path: Path) -> None:
    study = make_study(tmp_path, teacher_per_seed=False)
    run_study(study, Options(upto="test"), quiet)
    assert sum(line.startswith("train") and line.endswith("/teacher") for line in calls(tmp_path)) == 1
    assert conf(study, "seed-2/two-stage")["objective"]["teacher"] == "../seed-1/teacher"
    assert conf(study, "seed-2/streaming-init")["stages"][0]["init_from"] == "../seed-1/teacher"
    evidence = collect(study, "test")
    assert evidence.incomplete() == {}
    (found,) = [
        c
        for c in evidence.comparisons
        if (c.row, c.baseline, c.part) == ("teacher", "streaming", "test-clean")
    ]
    assert found.num_seeds == 2 and found.gap.estimate == 1.0


FIRST = {
    "references": ["first", "longer"],
    "rows": {
        "teacher": {"init": "first"},
        "first": {"system": "streaming"},
        "longer": {"system": "streaming", "init": "first", "settings": {"stages.0.num_steps": 9}},
        "two-stage": {"init": "teacher"},
    },
    "baselines": ["two-stage"],
}


@pytest.mark.parametrize("shared", [False, True])
def test_a_teacher_may_itself_start_from_another_row(tmp_path: Path, shared: bool) -> None:
    study = make_study(tmp_path, teacher_per_seed=not shared, **FIRST)
    run_study(study, Options(num_jobs=2, rows=("two-stage",), upto="dev"), quiet)
    trained = [
        line.split()[-1].removeprefix(f"{study.exp}/") for line in calls(tmp_path) if line.startswith("train")
    ]
    for seed in (1,) if shared else (1, 2):
        chain = [trained.index(f"seed-{seed}/{row}") for row in ("first", "teacher", "two-stage")]
        assert chain == sorted(chain)
    assert conf(study, "seed-1/teacher")["stages"][0]["init_from"] == "first"
    origin = "../seed-1/teacher" if shared else "teacher"
    assert conf(study, "seed-2/two-stage")["stages"][0]["init_from"] == origin
    run_study(study, Options(num_jobs=2, upto="dev"), quiet)
    assert conf(study, "seed-2/longer")["stages"][0]["init_from"] == (
        "../seed-1/first" if shared else "first"
    )
    assert len([line for line in calls(tmp_path) if line.startswith("train")]) == (6 if shared else 8)
    assert collect(study, "dev").incomplete() == {}


def test_the_best_dev_error_chooses_among_equally_many_learning_rates(tmp_path: Path) -> None:
    study = make_study(tmp_path, tune=TUNE)
    run_study(study, Options(num_jobs=2, upto="test"), quiet)
    assert chosen_rates(study) == {
        "teacher": None, "streaming": 2e-3, "streaming-init": 2e-3, "two-stage": 2e-3
    }  # fmt: skip
    trained = [Path(line.split()[-1]) for line in calls(tmp_path) if line.startswith("train")]
    names = [f"{path.parent.name}/{path.name}" for path in trained]
    # Both values with the first seed, the chosen one with the others; nothing twice.
    assert sorted(name for name in names if "streaming@" in name) == [
        "seed-1/streaming@0.002", "seed-1/streaming@0.004", "seed-2/streaming@0.002"
    ]  # fmt: skip
    assert len(names) == len(set(names))
    # Only the chosen ones meet the test parts.
    tested = {Path(line.split()[1]).name for line in calls(tmp_path) if "test-clean" in line}
    assert tested == {"teacher", "streaming@0.002", "streaming-init@0.002", "two-stage@0.002"}
    (entry,) = [entry for entry in collect(study, "test").tuned if entry["row"] == "streaming"]
    assert entry["learning_rate"] == 2e-3 and entry["at_edge"]
    # The stand-in makes 2 errors in 10 words, and one more for each 0.001 of learning rate beside 0.002.
    assert entry["trials"] == [
        {"learning_rate": 4e-3, "dev_wer": 40.0},
        {"learning_rate": 2e-3, "dev_wer": 20.0},
    ]
    # A part that a user has decoded in another way chooses none.
    path = study.exp / "seed-1" / "streaming@0.004" / "decode" / "streaming" / "dev-clean" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_utterances": 2}))
    with pytest.raises(UserError, match="dev-clean: decoded with --max-utterances 2"):
        chosen_rates(study)
    # As the message says.
    shutil.rmtree(path.parent)
    run_study(study, Options(upto="test"), quiet)
    assert chosen_rates(study)["streaming"] == 2e-3


def test_students_wait_only_for_the_teacher_of_their_seed(
    tmp_path: Path,
) -> None:
    usual = {"tune": TUNE, "seeds": [1]}
    run_study(make_study(tmp_path, **usual), Options(upto="dev"), quiet)
    before = len(calls(tmp_path))
    said: list[str] = []
    run_study(make_study(tmp_path, **usual | {"seeds": [1, 2, 3]}), Options(upto="dev"), said.append)
    assert not any("Round 1" in line for line in said)
    trained = [line.split()[-1] for line in calls(tmp_path)[before:] if line.startswith("train")]
    seeds = [Path(folder).parent.name for folder in trained]
    assert seeds == sorted(seeds) and Path(trained[0]).name == Path(trained[4]).name == "teacher"


def test_a_row_may_have_the_rate_that_another_has_chosen(tmp_path: Path) -> None:
    rows: dict[str, Any] = {
        "teacher": {},
        "longer": {"system": "two-stage", "init": "teacher", "rate_of": "two-stage"},
        **{row: {"init": "teacher", "system": system} for row, system in SYSTEMS.items()},
    }
    rows["longer"]["settings"] = {"stages.0.num_steps": 9}
    study = make_study(tmp_path, rows=rows, references=["longer"], tune=TUNE)
    said: list[str] = []
    run_study(study, Options(rows=("longer",), upto="dev"), said.append)
    assert any("longer: its learning rate is not chosen" in line and "two-stage" in line for line in said)
    run_study(study, Options(num_jobs=2, upto="dev"), quiet)
    assert chosen_rates(study)["longer"] == chosen_rates(study)["two-stage"] == 2e-3
    assert conf(study, "seed-2/longer@0.002")["training"]["optim"]["learning_rate"] == 2e-3
    trained = [Path(line.split()[-1]).name for line in calls(tmp_path) if line.startswith("train")]
    assert {name for name in trained if name.startswith("longer")} == {"longer@0.002"}
    assert collect(study, "dev").incomplete() == {}


def test_a_row_is_not_chosen_before_all_its_trials_are_decoded(tmp_path: Path) -> None:
    study = make_study(tmp_path, tune=TUNE)
    script = Path(study.kdasr[-1])
    whole = script.read_text()
    script.write_text('import sys\nif "@0.003" in " ".join(sys.argv): sys.exit(1)\n' + whole)
    said: list[str] = []
    report = run_study(study, Options(upto="dev"), said.append)
    assert report.failed == ["seed-1/streaming-init@0.003.train", "seed-1/two-stage@0.003.train"]
    assert report.skipped == ["seed-1/streaming-init@0.003.dev", "seed-1/two-stage@0.003.dev"]
    assert set(chosen_rates(study)) == {"teacher", "streaming"}
    assert any(text.startswith("two-stage: its learning rate is not chosen") for text in said)
    incomplete = collect(study, "dev").incomplete()
    assert incomplete == {"streaming-init": 0, "two-stage": 0}
    script.write_text(whole)
    assert not run_study(study, Options(upto="dev"), quiet).failed
    assert collect(study, "dev").incomplete() == {}


def test_a_job_that_a_later_round_finishes_has_not_failed(tmp_path: Path) -> None:
    study = make_study(tmp_path, tune=TUNE)
    script = Path(study.kdasr[-1])
    once = f"from pathlib import Path\nonce = Path({str(tmp_path / 'once')!r})\n"
    once += "if sys.argv[-1].endswith('seed-2/teacher') and not once.exists(): once.touch(); sys.exit(1)\n"
    script.write_text("import sys\n" + once + script.read_text())
    said: list[str] = []
    report = run_study(study, Options(upto="dev"), said.append)
    assert any("seed-2/teacher.train failed" in text for text in said)
    assert (report.failed, report.skipped) == ([], [])
    assert collect(study, "dev").incomplete() == {}


def test_only_changed_rows_are_trained_again(tmp_path: Path) -> None:
    run_study(make_study(tmp_path), Options(upto="test"), quiet)
    before = calls(tmp_path)
    run_study(make_study(tmp_path), Options(upto="test"), quiet)
    assert calls(tmp_path) == before
    rows = {
        "teacher": {}, "streaming": {}, "streaming-init": {"system": "streaming", "init": "teacher"},
        "two-stage": {"init": "teacher", "settings": {"objective.output.rule": "entropy"}},
    }  # fmt: skip
    changed = make_study(tmp_path, rows=rows)
    plan = describe_plan(changed, Options(upto="test"))
    assert sum(line.startswith("to run") for line in plan) == 6
    run_study(changed, Options(upto="test"), quiet)
    new = calls(tmp_path)[len(before) :]
    assert len(new) == 8 and all("two-stage" in line for line in new)


def test_other_data_train_again_repacked_data_do_not(tmp_path: Path) -> None:
    run_study(make_study(tmp_path), Options(upto="dev"), quiet)
    before = len(calls(tmp_path))
    cuts = tmp_path / "data" / "cuts_train-clean-100.jsonl.gz"
    cuts.write_bytes(gzip.compress(gzip.decompress(cuts.read_bytes()), mtime=12345))
    run_study(make_study(tmp_path), Options(upto="dev"), quiet)
    assert len(calls(tmp_path)) == before
    cuts.write_bytes(gzip.compress(b"other speech"))
    run_study(make_study(tmp_path), Options(upto="dev"), quiet)
    assert len(calls(tmp_path)) == 2 * before


def test_a_large_manifest_is_not_in_memory_as_a_whole(tmp_path: Path) -> None:
    write_data(tmp_path)
    manifest, size = tmp_path / "cuts_train-clean-100.jsonl.gz", 64 << 20
    with gzip.open(manifest, "wb", compresslevel=1) as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    data_digest(tmp_path, ["train-clean-100"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 8


def test_chosen_rows_are_trained_alone(tmp_path: Path) -> None:
    run_study(make_study(tmp_path), Options(rows=("streaming",), upto="test"), quiet)
    assert not any("two-stage" in line or "streaming-init" in line for line in calls(tmp_path))
    run_study(make_study(tmp_path), Options(rows=("two-stage",), upto="test"), quiet)
    evidence = collect(make_study(tmp_path), "test")
    assert {run.info.row for run in evidence.runs} == {"teacher", "streaming", "two-stage"}
    assert evidence.incomplete() == {"streaming-init": 0}
    shown = ["teacher", "streaming", "two-stage"]
    study = make_study(tmp_path)
    assert rows_to_repeat(study, Options(rows=("two-stage",), upto="test")) == shown
    assert rows_to_repeat(study, Options(upto="test")) == []
    assert rows_to_repeat(study, Options(rows=("two-stage", "streaming-init"), upto="test")) == []
    assert {(c.row, c.baseline) for c in evidence.comparisons} == {
        ("teacher", "streaming"), ("two-stage", "streaming")
    }  # fmt: skip


def test_order_decides_whether_seeds_or_rows_come_first(tmp_path: Path) -> None:
    rows = ["teacher", "streaming"]
    rates: dict[str, float | None] = dict.fromkeys(rows)
    by_seed = [run.name for run in make_study(tmp_path).planner.runs(rows, rates)]
    by_row = [run.name for run in make_study(tmp_path, order="row").planner.runs(rows, rates)]
    assert by_seed == ["seed-1/teacher", "seed-1/streaming", "seed-2/teacher", "seed-2/streaming"]
    assert by_row == ["seed-1/teacher", "seed-2/teacher", "seed-1/streaming", "seed-2/streaming"]


@pytest.mark.parametrize("order", ["seed", "row"])
def test_a_row_may_have_fewer_seeds_than_others_and_is_complete_then(tmp_path: Path, order: str) -> None:
    rows: dict[str, Any] = {
        "teacher": {},
        "streaming": {"num_seeds": 2},
        "streaming-init": {"system": "streaming", "init": "teacher", "num_seeds": 1},
        "two-stage": {"init": "teacher"},
    }
    study = make_study(tmp_path, seeds=[4, 2, 3], order=order, rows=rows)
    run_study(study, Options(upto="dev"), quiet)
    trained = [line.split()[-1] for line in calls(tmp_path) if line.startswith("train")]
    seeds = {row: [seed for seed in (4, 2, 3) if f"{study.exp}/seed-{seed}/{row}" in trained] for row in rows}
    assert seeds == {"teacher": [4, 2, 3], "streaming": [4, 2], "streaming-init": [4], "two-stage": [4, 2, 3]}
    found = collect(study, "dev")
    assert found.incomplete() == {}
    compared = {(one.row, one.baseline): one.num_seeds for one in found.comparisons}
    assert compared["two-stage", "streaming"] == 2 and compared["two-stage", "streaming-init"] == 1
    more = make_study(tmp_path, seeds=[4, 2, 3], order=order, rows=rows | {"streaming": {}})
    assert collect(more, "dev").incomplete() == {"streaming": 2}


def test_data_that_is_not_prepared_is_named(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    (tmp_path / "data" / "cuts_dev-clean.jsonl.gz").unlink()
    with pytest.raises(UserError, match="cuts_dev-clean"):
        run_study(study, Options(upto="dev"), quiet)


def test_the_files_that_are_left(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    run_study(study, Options(upto="test"), quiet)
    document = tmp_path / "RESULTS.md"
    document.write_text("before\n<!-- conf -->\nold\n<!-- /conf -->\nafter\n")
    list(write_results(study, "test", "make results", document))
    summary = json.loads((study.exp / "summary.json").read_text())
    assert {"row", "init", "seed", "part", "wer", "first_token_ms", "emission_delay_ms"} <= set(
        summary["rows"][0]
    )
    assert len(summary["rows"]) == 4 * 2 * 3
    found = next(c for c in summary["comparisons"] if (c["row"], c["part"]) == ("two-stage", "test-clean"))
    assert {
        "baseline",
        "wer_rel_reduction",
        "wer_ci",
        "first_token_gain_ms",
        "first_token_ci",
        "gap_closed",
    } <= set(found)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "make results" in text and "`two-stage`" in text and "](conf.png)" in text
    assert (tmp_path / "conf.png").stat().st_size > 0 and (study.exp / "wer-latency.png").is_file()
    assert "test-clean,two-stage," in (tmp_path / "results" / "conf-rows.csv").read_text()


def test_the_recipe_says_which_parts_are_test_parts(tmp_path: Path) -> None:
    """Whatever they are called: nothing is ranked on them, and no variant has to be decoded on them."""
    rows = {"teacher": None, "streaming": {}, "variant": {"system": "two-stage", "test": False}}
    named = {"test_parts": ["eval"], "rank_against": "streaming", "baselines": ["streaming"]}
    study = make_study(tmp_path, seeds=[1], rows=rows, **named)
    (study.data / "cuts_eval.jsonl.gz").write_bytes(gzip.compress(b"eval"))
    run_study(study, Options(num_jobs=2, upto="test"), quiet)
    found = collect(study, "test")
    assert found.incomplete() == {} and found.ranking is not None and found.ranking.parts == ["dev-clean"]
    assert brief(found, "conf", "results")[0] == "eval has 4 utterances, 40 words."
    assert found.reported == ["eval"] and collect(study, "dev").reported == ["dev-clean"]


def test_nobodys_calibration_counts_where_the_study_makes_none(tmp_path: Path) -> None:
    study = make_study(tmp_path, seeds=[1], rows={"teacher": None, "two-stage": {}}, baselines=[])
    run_study(study, Options(upto="dev"), quiet)
    decodes = [line for line in calls(tmp_path) if line.startswith("decode")]
    assert len(decodes) == 2 and all("--as-trained" in line for line in decodes)
    path = study.exp / "seed-1" / "two-stage" / "decode" / "streaming" / "dev-clean" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibrated_blank_penalty": 1.5}))
    with pytest.raises(UserError, match=r"dev-clean: decoded with the blank penalty 1\.5 of"):
        collect(study, "dev")
    calibrated = make_study(tmp_path, seeds=[1], rows={"teacher": None}, baselines=[], calibrate=True)
    jobs = calibrated.jobs(calibrated.planner.runs(["teacher"], fixed_rates(calibrated)), "test")
    assert not any("--as-trained" in command for job in jobs for command in job.commands)


def test_no_test_part_is_decoded_of_a_variant(tmp_path: Path) -> None:
    rows = {"teacher": None, "streaming": {}, "streaming-init": {"system": "streaming", "init": "teacher"}}
    study = make_study(
        tmp_path, rows=rows | {"variant": {"system": "two-stage", "init": "teacher", "test": False}}
    )
    assert not run_study(study, Options(num_jobs=2, upto="test"), quiet).failed
    decoded = [line for line in calls(tmp_path) if line.startswith("decode") and "variant" in line]
    assert decoded and all("--parts dev-clean --mode" in line for line in decoded)
    found = collect(study, "test")
    assert found.incomplete() == {} and found.choices == ["variant"]
    assert list(found.of("variant", "dev-clean")) == [1, 2] and not found.of("variant", "test-clean")
