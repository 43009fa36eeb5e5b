"""Reading logs, choosing utterances, and laying their tokens out in time."""

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_experiment import (
    SYSTEMS,
    write_experiment,
    write_long_form,
    write_part,
    write_system,
    write_training,
)

from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.report.build import collect_results
from kdasr.report.contexts import context_rows, context_table, contexts_plot
from kdasr.report.curves import training_plot
from kdasr.report.examples import Example, choose_examples, load_spectrograms
from kdasr.report.experiment import read_experiments, read_part, read_system
from kdasr.report.headline import headline
from kdasr.report.latency_parts import first_token_parts_plot, mean_parts
from kdasr.report.long_form import long_form_rows
from kdasr.report.long_form_plot import gap_plot, minutes_plot
from kdasr.report.metrics_log import read_metrics
from kdasr.report.page import environment_table
from kdasr.report.plots import wer_plot
from kdasr.report.records import DecodedUtterance, ShownToken, ShownWord
from kdasr.report.reliability_plot import reliability_plot
from kdasr.report.results import comparisons, result_rows
from kdasr.report.roles import Roles, roles_of
from kdasr.report.status import collect_notes
from kdasr.report.style import figure_svg, system_styles
from kdasr.report.tables import write_results_json
from kdasr.report.timeline import Label, TimelineLane, _place, token_labels
from kdasr.testing import write_corpus


def _row(split: str, step: int, value: float) -> str:
    return json.dumps({"split": split, "stage": "s", "step": step, "terms": {"rnnt": value}}) + "\n"


def test_metrics_keep_the_last_of_a_repeated_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        _row("train", 10, 3.0) + _row("train", 20, 2.0) + _row("train", 10, 1.0) + '{"split": "tr'
    )
    assert [(row.step, row.values["rnnt"]) for row in read_metrics(path)] == [(10, 1.0), (20, 2.0)]
    path.write_text('{"split": "tr\n' + _row("train", 10, 3.0))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1"):
        read_metrics(path)


def test_text_in_a_decoded_part_does_not_end_its_line(tmp_path: Path) -> None:
    write_part(tmp_path, "two-stage", SYSTEMS["two-stage"], "test-clean", 2)
    folder = tmp_path / "decode" / "streaming" / "test-clean"
    row = json.loads((folder / "utterances.jsonl").read_text().split("\n")[0])
    other = {**row, "id": "other", "ref": "A\u2028B\x85C"}
    lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in (row, other)]
    (folder / "utterances.jsonl").write_text("".join(lines), encoding="utf-8")
    assert read_part(folder, "streaming").utterances["other"].ref == "A\u2028B\x85C"


def test_characters_are_compared_where_words_are_not_separated(tmp_path: Path) -> None:
    said = {"streaming": ["明天天气好", "开灯"], "two-stage": ["今天天气好", "关灯"]}
    for name, hypotheses in said.items():
        write_part(tmp_path / name, name, SYSTEMS[name], "test-clean", 2)
        folder = tmp_path / name / "decode" / "streaming" / "test-clean"
        rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().split("\n")[:-1]]
        for row, ref, hyp in zip(rows, ["今天天气好", "开灯"], hypotheses, strict=True):
            errors = {"sub": int(ref != hyp), "ins": 0, "del": 0, "words": 1}
            row |= {"ref": ref, "hyp": hyp, "errors": errors}
        (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps({**summary, "wer": 50.0, "measure": "cer"}))
    systems = read_experiments([tmp_path])
    rows = result_rows(systems)
    assert [(row.wer.estimate, row.error_rate.estimate) for row in rows] == [(50.0, 100 / 7)] * 2
    roles = Roles(baselines=("streaming",), method="two-stage")
    (compared,) = comparisons(systems, roles)
    assert (compared.measure, compared.row_wer) == ("cer", pytest.approx(100 / 7))
    assert "character errors" in headline([compared], ["test-clean"], "two-stage").lead
    (note,) = [
        note for note in collect_notes(systems, roles, rows, [], [tmp_path]) if note.subject == "test-clean"
    ]
    assert "compare the CER" in note.text
    assert wer_plot(rows, system_styles(list(said))).title == "Character error rate"


def test_plots_name_every_system_and_take_dollars_for_text(tmp_path: Path) -> None:
    names = ("streaming", "$\\x$")
    for name, part in zip(names, ("test-clean", "test-other"), strict=True):
        write_part(tmp_path / name, name, SYSTEMS["streaming"], part, 2)
        write_long_form(tmp_path / name, part)
    systems, styles = read_experiments([tmp_path]), system_styles(names)
    rows, streams = result_rows(systems), long_form_rows(systems)
    joined = [row for row in streams if row["endpoints"]]
    wider = [replace(row, context="left=32 chunk=16 right=0") for row in rows]
    plots = [reliability_plot(rows, styles), contexts_plot([*rows, *wider], styles)]
    plots += [gap_plot(streams, styles), gap_plot(joined, styles), minutes_plot(streams, styles)]
    for plot in plots:
        assert plot is not None
        assert {text.get_text() for text in plot.figure.legends[0].get_texts()} == set(names), plot.name
        assert "$\\x$" in figure_svg(plot.figure, plot.name)
    alone = wer_plot([replace(row, wer=replace(row.wer, speakers=12)) for row in rows], styles)
    assert "interval over 12 speakers" in alone.caption and "$\\x$" in figure_svg(alone.figure, alone.name)


def test_capitals_alone_are_shown_in_lower_case() -> None:
    tokens, words = [ShownToken("▁I", 0.14, 0.64)], [ShownWord("I", 0.64, 0)]
    for ref, shown in (("I", "i"), ("I am", "I"), ("Iİ", "I")):
        (label,) = token_labels(replace(_utterance(tokens, words), ref=ref))
        assert label.runs == [(shown, False)]


def test_the_training_plot_has_a_panel_per_term(tmp_path: Path) -> None:
    write_training(tmp_path / "two-stage", "two-stage", SYSTEMS["two-stage"])
    styles = system_styles(["two-stage"])
    plot = training_plot([read_system(tmp_path / "two-stage", "two-stage")], styles)
    assert plot is not None
    titles = " ".join(axes.get_title(loc="left") for axes in plot.figure.axes)
    for term in ("dev WER", "rnnt", "ctc", "hidden_mse", "output_kl"):
        assert term in titles
    switches = [line.get_xdata()[0] for line in plot.figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert switches == [400]
    assert "best" in plot.alt and training_plot([], styles) is None
    system = read_system(tmp_path / "two-stage", "two-stage")
    worse = replace(system, metrics=[replace(row, values={"wer": 150.0}) for row in system.metrics])
    plot = training_plot([worse], styles)
    assert plot is not None and plot.figure.axes[0].get_ylim()[1] > 150.0


def test_examples_follow_their_rule(tmp_path: Path) -> None:
    systems = read_experiments([write_experiment(tmp_path)])
    examples, rule = choose_examples(systems, roles_of(systems).pairs())
    by_name = {system.name: system for system in systems}
    gains = {
        (part, id): utterance.num_errors - by_name["two-stage"].parts[part].utterances[id].num_errors
        for part, decoded in by_name["streaming"].parts.items()
        for id, utterance in decoded.utterances.items()
    }
    shown = [gains[example.part, example.id] for example in examples]
    assert shown[0] == max(gains.values()) and shown[1] == min(gains.values())
    assert shown[2] == sorted(gains.values())[len(gains) // 2]
    assert "largest gain, the largest loss and the median" in rule and "40 utterances" in rule


def test_without_data_spectrograms_are_left_out(tmp_path: Path) -> None:
    found, notes = load_spectrograms(tmp_path, [Example("test-clean", "u", "")])
    assert not found and len(notes) == 1 and "test-clean" in notes[0] and str(tmp_path) in notes[0]


def test_spectrograms_without_frames_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", ("test-clean",))
    soundfile.write(corpus / "test-clean" / "100" / "1" / "100-1-0000.flac", np.zeros(10), 16000)
    prepare_corpus(PrepareOptions(corpus, tmp_path / "data", ["test-clean"]))
    examples = [Example("test-clean", f"100-1-000{index}", "") for index in range(2)]
    found, notes = load_spectrograms(tmp_path / "data", examples)
    assert list(found) == [("test-clean", "100-1-0001")] and not notes
    (stored,) = (tmp_path / "data").rglob("*.lca")
    stored.write_bytes(stored.read_bytes()[:50])
    found, notes = load_spectrograms(tmp_path / "data", examples)
    assert not found and "Spectrograms of test-clean are left out" in notes[0] and "\n" not in notes[0]


def _utterance(tokens: list[ShownToken], words: list[ShownWord]) -> DecodedUtterance:
    return DecodedUtterance(
        "u", 2.0, "A", "A", 0, 1, None, None, (), None, None, (), tuple(tokens), tuple(words)
    )


def test_tokens_shown_together_are_one_label() -> None:
    tokens = [
        ShownToken("▁RI", 0.14, 0.64),
        ShownToken("VER", 0.26, 0.64),
        ShownToken("▁HOU", 0.5, 0.64),
        ShownToken("SE", 0.82, 0.96),
    ]
    labels = token_labels(_utterance(tokens, [ShownWord("RIVER", 0.64, 0), ShownWord("HOUSE", 0.96, None)]))
    assert [(label.time, label.runs) for label in labels] == [
        (0.64, [("river", False), (" hou", True)]),
        (0.96, [("-se", True)]),
    ]


def test_labels_in_a_row_never_overlap_and_stay_on_the_axis() -> None:
    texts = [
        "one",
        "another longer text",
        "x",
        "a text of many words that has to be broken into lines",
        "end",
    ]
    lane = TimelineLane("l", "", "#000000", [Label(0.4 * i, [(text, False)]) for i, text in enumerate(texts)])
    width = 300.0
    _place(lane, width, end=2.0)
    assert " ".join(text for label in lane.labels for text, _ in label.runs) == " ".join(texts)
    for index, label in enumerate(lane.labels):
        assert label.left >= 0 and label.left + label.width <= width
        for other in lane.labels[:index]:
            apart = label.left >= other.left + other.width or other.left >= label.left + label.width
            assert apart or label.row != other.row


def test_environment_names_the_systems_that_differ(tmp_path: Path) -> None:
    for name, torch in (("a", "2.11"), ("b", "2.12")):
        write_training(tmp_path / name, name, SYSTEMS["streaming"])
        environment = {
            "python": "3.11",
            "libraries": {"torch": torch},
            "seed": 1,
            "command": ["kdasr", "train"],
        }
        (tmp_path / name / "environment.json").write_text(json.dumps(environment))
    table = dict(environment_table(read_experiments([tmp_path])))
    assert table == {"python": "3.11", "libraries torch": "2.11 (a); 2.12 (b)"}


def test_parts_of_the_first_token_add_up_to_its_mean(tmp_path: Path) -> None:
    systems = read_experiments([write_experiment(tmp_path)])
    rows = {(row.system, row.part): row for row in result_rows(systems)}
    for system in systems:
        for decoded in system.parts.values():
            wall = rows[system.name, decoded.part].first_token_ms["wall_mean"]
            assert sum(mean_parts(decoded).values()) == pytest.approx(wall)
    plot = first_token_parts_plot(systems, list(rows.values()), system_styles([s.name for s in systems]))
    assert plot is not None and "teacher" not in plot.alt
    assert "two-stage on test-other: model delay" in plot.alt


def _rewrite(path: Path, change: Callable[[dict], object]) -> None:
    """Change every object of a file of JSON, or of lines of JSON."""
    objects = [json.loads(line) for line in path.read_text().split("\n") if line]
    for found in objects:
        change(found)
    path.write_text("".join(json.dumps(found) + "\n" for found in objects))


def _forget(words: list[dict]) -> None:
    for word in words:
        del word["confidence"]


def test_files_of_an_older_version_are_named_and_the_rest_of_them_is_shown(tmp_path: Path) -> None:
    write_experiment(tmp_path, {name: SYSTEMS[name] for name in ("streaming", "two-stage")}, 4)
    newer = collect_results([tmp_path])
    folder = tmp_path / "two-stage"
    shutil.copytree(folder / "decode", folder / "contexts" / "wide")
    decoded = folder / "decode" / "streaming" / "test-clean"
    _rewrite(decoded / "summary.json", lambda found: found.pop("rtf"))
    _rewrite(decoded / "utterances.jsonl", lambda found: found["first_token_parts_ms"].pop("search"))
    other = folder / "decode" / "streaming" / "test-other"
    _rewrite(other / "utterances.jsonl", lambda found: _forget(found["words"]))
    for path in folder.glob("contexts/*/*/*/summary.json"):
        _rewrite(path, lambda found: found.pop("context"))
    older = collect_results([tmp_path])
    notes = [note for note in older.notes if note not in newer.notes]
    assert older.contexts == [] and {note.subject for note in notes} == {"older version of kdasr"}
    said = {tuple(re.split(r" of two-stage: without | \(", note.text)[:2]) for note in notes}
    assert said == {
        ("decode/streaming/test-clean/summary.json", "rtf"),
        ("decode/streaming/test-clean/utterances.jsonl", "first_token_parts_ms"),
        ("decode/streaming/test-other/utterances.jsonl", "confidence"),
        (
            "contexts/wide/streaming/test-clean/summary.json, "
            "contexts/wide/streaming/test-other/summary.json",
            "context",
        ),
    }
    clean, other_row = (row for row in older.rows if row.system == "two-stage")
    assert (clean.rtf, other_row.confidence) == (None, None) and clean.confidence is not None
    assert [c.as_json() for c in older.comparisons] == [c.as_json() for c in newer.comparisons]
    systems = {system.name: system for system in older.systems}
    assert mean_parts(systems["two-stage"].parts["test-clean"]) == {}


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("summary.json", {"rtf": "fast"}, "'rtf' is 'fast': damaged"),
        ("summary.json", {"wer": [1]}, r"'wer' is \[1\]: damaged"),
        ("summary.json", {"signal": 3}, "'signal' is 3: damaged"),
        ("utterances.jsonl", {"first_token_ms": "soon"}, "line 1: not a decoded utterance"),
        ("utterances.jsonl", {"words": ["A"]}, "line 1: not a decoded utterance"),
        ("gain.json", {"results": [{"wer": 1.0}]}, "no 'gain_db': damaged"),
        ("../../../metrics.jsonl", {"terms": {"rnnt": "low"}}, "line 1: not a line of a log of training"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, change: dict, fault: str) -> None:
    write_system(tmp_path / "streaming", "streaming", SYSTEMS["streaming"], 2)
    path = tmp_path / "streaming" / "decode" / "streaming" / "test-clean" / name
    if name == "gain.json":
        path.write_text("{}")
    _rewrite(path, lambda found: found.update(change))
    with pytest.raises(UserError, match=re.escape(path.name) + ".*" + fault):
        read_experiments([tmp_path])


def test_contexts_that_another_checkpoint_decoded_are_named(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"two-stage": SYSTEMS["two-stage"]}, 4)
    folder = tmp_path / "two-stage"
    for name in ("wide", "narrow"):
        shutil.copytree(folder / "decode", folder / "contexts" / name)
    for path in folder.glob("**/summary.json"):
        digest, context = ("b", "full") if "wide" in path.parts else ("a", "left=8 chunk=2 right=0")
        _rewrite(
            path,
            lambda found, said=(digest, context): found.update(checkpoint_sha256=said[0], context=said[1]),
        )
    (note,) = [note for note in collect_results([tmp_path]).notes if "another checkpoint" in note.text]
    assert note.subject == "two-stage" and "under full: decode again" in note.text
    assert note.command.endswith("--contexts full") and "'test-clean test-other'" in note.command


@pytest.mark.parametrize(
    ("changed", "said", "command"),
    [
        (
            "decode/streaming/test-other",
            "test-clean and test-other were not decoded by the same",
            "streaming",
        ),
        ("decode/long-form/test-clean", "test-clean: another checkpoint decoded long streams", "--long-form"),
    ],
)
def test_results_of_an_earlier_checkpoint_beside_those_of_a_later_one_are_named(
    tmp_path: Path, changed: str, said: str, command: str
) -> None:
    write_experiment(tmp_path, {"two-stage": SYSTEMS["two-stage"]}, 4)
    folder = tmp_path / "two-stage"
    write_long_form(folder, "test-clean")
    for path in folder.glob("**/summary.json"):
        _rewrite(path, lambda found: found.update(checkpoint_sha256="new"))
    assert not [note for note in collect_results([tmp_path]).notes if "checkpoint" in note.text]
    _rewrite(folder / changed / "summary.json", lambda found: found.update(checkpoint_sha256="old"))
    (note,) = [note for note in collect_results([tmp_path]).notes if "checkpoint" in note.text]
    assert note.subject == "two-stage" and note.text.startswith(said) and note.command.endswith(command)


@pytest.mark.parametrize(
    ("settings", "way"),
    [
        ({"search": "beam beam=8"}, "beam beam=8"),
        ({"search": "greedy blank_penalty=1.0"}, "greedy blank_penalty=1.0"),
        ({"int8": True, "biasing_sha256": "1" * 64}, "greedy, biased to phrases, int8"),
        ({"endpoint_rules": {"rule1": 2.4}}, "greedy, resets at endpoints"),
        (
            {"language_model": {"sha256": "abcdef0123", "use": "shallow fusion", "scale": 0.3}},
            "greedy, shallow fusion with the language model abcdef01, scale 0.3",
        ),
    ],
)
def test_systems_and_parts_that_another_search_decoded_are_named(
    tmp_path: Path, settings: dict, way: str
) -> None:
    """A baseline by greedy search against a method by a beam is no comparison of the two systems."""
    write_experiment(tmp_path, {name: SYSTEMS[name] for name in ("streaming", "two-stage")}, 4)
    alike = {"search": "greedy", "int8": False, "language_model": None}  # as a file that says nothing
    decode = tmp_path / "streaming" / "decode" / "streaming"
    _rewrite(decode / "test-clean" / "summary.json", lambda found: found.update(alike))
    assert not [note for note in collect_results([tmp_path]).notes if "alike" in note.text]
    _rewrite(decode / "test-other" / "summary.json", lambda found: found.update(settings))
    notes = {note.subject: note.text for note in collect_results([tmp_path]).notes if "alike" in note.text}
    assert notes.keys() == {"test-other", "streaming"}
    assert f"({way}: streaming; greedy: two-stage)" in notes["test-other"]
    assert f"(greedy: test-clean; {way}: test-other)" in notes["streaming"]


def test_long_streams_under_another_context_than_their_utterances_are_named(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"two-stage": SYSTEMS["two-stage"]}, 4)
    for part in ("test-clean", "test-other"):
        write_long_form(tmp_path / "two-stage", part)
    decode = tmp_path / "two-stage" / "decode"
    for part, context in (
        ("test-clean", "left=8 chunk=2 right=0"),
        ("test-other", "left=32 chunk=8 right=0"),
    ):
        _rewrite(
            decode / "long-form" / part / "summary.json",
            lambda found, said=context: found.update(context=said),
        )
    (note,) = [note for note in collect_results([tmp_path]).notes if "long streams were" in note.text]
    assert note.text.startswith("test-clean: long streams were decoded under left=8 chunk=2 right=0")
    assert note.command.endswith("--parts test-clean --mode streaming --long-form")


def test_contexts_are_lines_by_waiting_time_beside_the_results(tmp_path: Path) -> None:
    write_experiment(tmp_path / "exp")
    system, other = SYSTEMS["two-stage"], tmp_path / "exp" / "two-stage" / "contexts"
    contexts = {"wide": "left=32 chunk=16 right=1", "narrow": "left=32 chunk=2 right=1", "all": "full"}
    for name, context in contexts.items():
        for part in ("test-clean", "test-other") if name == "wide" else ("test-clean",):
            write_part(other / name, "two-stage", system, part, 20)
        for path in (other / name).glob("decode/*/*/summary.json"):
            content = json.loads(path.read_text()) | {"context": context}
            if name == "narrow":  # the look-ahead grows by three chunks; others are of a version without this
                content["wait_frames"] = 9
            path.write_text(json.dumps(content))
        (other / name / "decode").rename(other / f"{name}-decoded")
        (other / name).rmdir()
    systems = read_experiments([tmp_path / "exp"])
    assert {row.context for row in result_rows(systems)} == {"full", "left=32 chunk=8 right=0"}
    rows = context_rows(systems)
    own = result_rows(systems)
    write_results_json(own, [], tmp_path / "results.json", [*own[:1], *rows])
    written = [(row["context"], row["part"]) for row in json.loads((tmp_path / "results.json").read_text())]
    assert written == [(row.context, row.part) for row in (*own, *rows)]
    table = context_table(rows)
    assert table is not None
    sizes = [(line.left_ms, line.chunk_ms, line.right_ms) for line in table.lines]
    assert sizes == [(1280.0, 80.0, 280.0), (1280.0, 640.0, 40.0), (0.0, math.inf, 0.0)]
    assert [line.is_full for line in table.lines] == [False, False, True]
    assert [row is None for row in table.lines[0].rows] == [False, True]
    plot = contexts_plot(rows, system_styles(["two-stage"]))
    assert plot is not None and plot.alt.count("WER") == 4
    clean = plot.figure.axes[0]
    assert [text.get_text() for text in clean.texts] == ["80 + 280 ms", "640 + 40 ms", "full"]
    assert context_table([]) is None and contexts_plot([], {}) is None
