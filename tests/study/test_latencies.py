"""Runs that are decoded under several contexts: jobs, `summary.json` and the plot of it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_helpers import calls, make_study

from kdasr.common.errors import UserError
from kdasr.nn.context import Context
from kdasr.report.style import system_styles
from kdasr.study.driver import Options, collect, run_study
from kdasr.study.jobs import Study
from kdasr.study.latencies import LatencyPoint, latency_plot, latency_points
from kdasr.study.waits import compare_at_waits
from kdasr.study.write import write_results

CONTEXTS = {
    "left": [8],
    "chunk": [2, 4],
    "evaluate": [{"left": 8, "chunk": 4}, {"left": 8, "chunk": 2, "right": 1}, {}],
}
ROWS: dict[str, Any] = {
    "teacher": None,
    "narrow": {
        "system": "streaming",
        "line": "separate",
        "settings": {"contexts": [{"left": 8, "chunk": 2}]},
    },
    "wide": {"system": "streaming", "line": "separate"},
    "all": {"system": "streaming", "settings": {"contexts": CONTEXTS}},
    "growing": {
        "system": "streaming",
        "settings": {
            "model.encoder.lookahead": "mask",
            "contexts": [{"left": 8, "chunk": 2, "right": 1}],
        },
    },
}


def contexts_study(folder: Path) -> Study:
    return make_study(folder, rows=ROWS, summary="contexts", baselines=["wide"], test_parts=["test-clean"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("latencies")
    study = contexts_study(folder)
    report = run_study(study, Options(upto="test"), say=lambda _: None)
    assert not report.failed and not report.skipped
    list(write_results(study, "test", "kdasr results", None))
    return study


def test_every_context_is_a_row_of_the_summary(finished: Study) -> None:
    entries = json.loads((finished.exp / "summary.json").read_text())
    assert all(set(e) == {"row", "seed", "part", "context_ms", "wer", "first_word_ms"} for e in entries)
    found = {(e["row"], e["context_ms"]) for e in entries}
    assert found == {
        ("teacher", None),
        # 2 + 0, 4 + 0 and 2 + 1 frames of 40 ms: what is waited for.
        *(("separate", ms) for ms in (80.0, 160.0)),
        *(("all", ms) for ms in (120.0, 160.0, None)),
        # 2 + 1, and 2 more for each of three layers above the first.
        ("growing", 360.0),
    }
    for entry in entries:
        assert (entry["first_word_ms"] is None) == (entry["context_ms"] is None)
    assert {(e["seed"], e["part"]) for e in entries if e["row"] == "all" and e["context_ms"] is None} == {
        (seed, part) for seed in (1, 2) for part in ("dev-clean", "test-clean")
    }
    # The stand-in's: a first word after 120 ms and the seed and the utterance's number, of which 0 to 3.
    (one,) = (
        e
        for e in entries
        if (e["row"], e["seed"], e["part"], e["context_ms"]) == ("all", 2, "dev-clean", 120)
    )
    assert one["first_word_ms"] == pytest.approx(120 + 2 + 1.5)


def test_contexts_are_decoded_once_and_shown_as_lines(finished: Study) -> None:
    before = calls(finished.exp.parent)
    decoded = [call for call in before if "--context left=8,chunk=2,right=1" in call]
    assert len(decoded) == 4 and all(
        "--mode streaming" in call and "/contexts/left-8-chunk-2-right-1" in call for call in decoded
    )
    assert all("--mode offline" in call for call in before if "--context full" in call)
    run_study(finished, Options(upto="test"), say=lambda _: None)
    assert calls(finished.exp.parent) == before
    plot = latency_plot(latency_points(finished, "test"), ["test-clean"])
    assert plot is not None and plot.figure.legends
    (axes,) = plot.figure.axes
    labels = [line.get_label() for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    assert labels == ["teacher", "separate", "all", "growing"]
    shown = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert shown == labels
    assert latency_plot([], ["test-clean"]) is None
    looks = [(style.color, style.marker) for style in system_styles([f"row-{n}" for n in range(16)]).values()]
    assert len(set(looks)) == 16
    assert (finished.exp / "wer-latency-lines.png").is_file()


def test_rows_are_compared_with_others_that_wait_as_long(finished: Study) -> None:
    found = json.loads((finished.exp / "comparisons-contexts.json").read_text())
    # The baseline `wide` is the model of its line for 160 ms.
    assert {(e["context_ms"], e["row"], e["baseline"], e["part"]) for e in found} == {
        (160.0, "all", "separate", part) for part in ("dev-clean", "test-clean")
    }
    evidence = collect(finished, "test")
    for entry in found:
        own = evidence.compare("all", "wide", entry["part"])
        assert own is not None and entry["wer_rel_reduction"] == own.as_json()["wer_rel_reduction"]
        # Both stand-ins show a first word after what they wait for.
        assert entry["first_word_gain_ms"] == 0 and entry["num_seeds"] == 2
    # A line of several rows is there to be compared with, baseline or not.
    without = compare_at_waits(finished, replace(evidence, baselines=[]), "test")
    assert [(wait, {(c.row, c.baseline) for c in pairs}) for wait, pairs in without.items()] == [
        (160.0, {("all", "separate")})
    ]
    table = (finished.exp / "results.md").read_text().partition("Fewer word errors at the same wait")[2]
    assert "| test-clean: row | against | 160 ms |" in table and "| `all` | `separate` |" in table


@pytest.mark.parametrize("decoded", ["decode", "contexts/left-8-chunk-2-right-1"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"checkpoint": "exp/all/checkpoints/last.pt"}, "from last.pt, not from averaged.pt"),
        ({"context": "left=1 chunk=1 right=0"}, "under 'left=1 .*, not under 'left=8 chunk"),
        ({"max_utterances": 2}, "with --max-utterances 2: remove"),
        ({"search": "beam beam=8"}, "by another search than the greedy one"),
        ({"language_model": {"scale": 0.3}}, "with a language model"),
        ({"biasing_sha256": "5e"}, "with --biasing"),
        ({"int8": True, "endpoint_rules": {"max": 20}}, "with --int8 and --endpoints"),
    ],
)
def test_what_was_decoded_again_in_another_way_is_refused(
    finished: Study, decoded: str, changed: dict[str, Any], message: str
) -> None:
    path = finished.exp / "seed-1" / "all" / decoded / "streaming" / "test-clean" / "summary.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), **changed}))
    try:
        with pytest.raises(UserError, match=f"test-clean: decoded {message}"):
            list(write_results(finished, "test", "kdasr results", None))
    finally:
        path.write_text(before)


def test_contexts_that_are_waited_for_alike_are_points_of_their_own() -> None:
    contexts = {Context(8, 4): (10.0, 20.0), Context(8, 2, 2): (30.0, 50.0), Context(16, 4): (60.0, 70.0)}
    points = [
        LatencyPoint("all", seed, "test-clean", context, 160.0, wer, 300.0 + wer)
        for context, wers in contexts.items()
        for seed, wer in enumerate(wers, start=1)
    ]
    plot = latency_plot(points, ["test-clean"])
    assert plot is not None
    (axes,) = plot.figure.axes
    drawn = next(line for line in axes.get_lines() if line.get_label() == "all")
    assert list(drawn.get_ydata()) == [15.0, 40.0, 65.0]
    assert list(drawn.get_xdata()) == [315.0, 340.0, 365.0]
    assert "160 ms: WER 40.0 %, first word 340 ms" in plot.alt


def test_decodings_under_contexts_use_the_gpus_of_their_job(tmp_path: Path) -> None:
    study = replace(contexts_study(tmp_path), gpus=2)
    jobs = study.jobs(study.planner.runs(["all"], {"all": None}), "test")
    commands = [command for job in jobs if job.name.endswith("-contexts") for command in job.commands]
    assert commands and all("--nproc-per-node" in command for command in commands)
    assert all(command[-2:] == ("--device", "cuda") for command in commands)


def test_a_system_that_is_evaluated_under_one_context_is_decoded_under_no_other(tmp_path: Path) -> None:
    contexts = {"left": [8], "chunk": [2, 4], "evaluate": [{"left": 8, "chunk": 4}]}
    rows = {**ROWS, "all": {"system": "streaming", "settings": {"contexts": contexts}}}
    study = make_study(tmp_path, rows=rows, summary="contexts", baselines=["wide"])
    jobs = study.jobs(study.planner.runs(["all"], {"all": None}), "test")
    assert [job.name.split(".")[1] for job in jobs] == 2 * ["train", "dev", "test"]
    assert all(job.commands for job in jobs)


def test_a_study_that_is_not_about_contexts_wants_equal_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="first context"):
        make_study(tmp_path, rows=ROWS, baselines=["wide"])
