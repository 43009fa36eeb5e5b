"""Rows, means and comparisons over seeds, their files, and the plot, from utterances with known errors."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdasr.common.errors import UserError
from kdasr.report.metrics_log import MetricsRow
from kdasr.report.records import DecodedPart, DecodedUtterance
from kdasr.study.evidence import Evidence
from kdasr.study.evidence_brief import brief, write_csv
from kdasr.study.evidence_plot import evidence_plot
from kdasr.study.evidence_records import plain, records
from kdasr.study.evidence_tables import fill_section, markdown, opening, summary, write_summary
from kdasr.study.recovered import recovered
from kdasr.study.trained_run import RunInfo, TrainedRun, settled

PART = "test-clean"


def utterance(id: str, errors: int, first: float | None) -> DecodedUtterance:
    """Ten words, shown half a second after their ends."""
    delays = () if first is None else (500.0, 100.0)
    token, word = ("missing", None) if first is None else ("right", first + 50)
    known = {"first_word_ms": word, "first_token": token}
    return DecodedUtterance(
        id, 1.0, "", "", errors, 10, first, None, delays, first, None, (), (), (), **known
    )  # type: ignore[arg-type]


def run(
    row: str, seed: int, errors: list[int], first: list[float | None] | None = None, part: str = PART
) -> TrainedRun:
    """A run whose utterances have these errors and first-token latencies (None: offline)."""
    latencies = first or [None] * len(errors)
    utterances = {
        f"u{i}": utterance(f"u{i}", e, f) for i, (e, f) in enumerate(zip(errors, latencies, strict=True))
    }
    info = RunInfo(row, "teacher" if row != "streaming" else "scratch", seed, 1e-3, 700, Path(row))
    return TrainedRun(info, {part: DecodedPart(part, "streaming", Path(), {}, utterances)})


def evidence(runs: list[TrainedRun], **options: object) -> Evidence:
    rows = ["teacher", "streaming", "streaming-init", "new"]
    known = {"test_parts": [PART], **options}
    return Evidence(rows, runs, ["streaming", "streaming-init"], "teacher", [1, 2], [PART], **known)  # type: ignore[arg-type]


RUNS = [
    run("new", 2, [2, 2], [110, 90]),
    run("new", 1, [1, 3], [100, None]),
    run("streaming", 1, [4, 6], [150, 170]),
    run("streaming", 2, [5, 5], [130, 110]),
    run("teacher", 1, [1, 1]),
    run("teacher", 2, [0, 2]),
]


def test_one_entry_for_each_row_seed_and_part() -> None:
    found = summary(evidence(RUNS))["rows"]
    assert [(entry["row"], entry["seed"]) for entry in found] == [
        ("teacher", 1), ("teacher", 2), ("streaming", 1), ("streaming", 2), ("new", 1), ("new", 2)
    ]  # fmt: skip
    new = found[4]
    assert (new["init"], new["part"], new["wer"], new["first_token_ms"]) == ("teacher", PART, 20.0, 100.0)
    assert new["emission_delay_ms"] == 300.0 and found[0]["first_token_ms"] is None


def test_means_over_seeds() -> None:
    means = {mean.row: mean for mean in evidence(RUNS).means}
    assert list(means) == ["teacher", "streaming", "new"]
    assert means["streaming"].wer.estimate == 50 and means["streaming"].first_token_ms == 140
    # The mean of the seeds' means: 100 of one utterance, and 100 of two.
    assert means["new"].first_token_ms == 100 and means["new"].num_seeds == 2


def test_comparisons_with_known_values() -> None:
    found = {(c.row, c.baseline): c for c in evidence(RUNS).comparisons}
    assert set(found) == {("new", "streaming"), ("teacher", "streaming")}
    new = found["new", "streaming"]
    assert new.wer.estimate == pytest.approx(60)  # 8 errors instead of 20
    assert new.first_token.estimate == pytest.approx((50 + 20 + 20) / 3)
    assert new.first_word.gain.estimate == pytest.approx((50 + 20 + 20) / 3)
    assert new.first_word.coverage == 0.75 and new.as_json()["num_speakers"] == 0
    assert new.gap.estimate == pytest.approx((20 - 8) / (20 - 4))
    teacher = found["teacher", "streaming"].as_json()
    assert teacher["gap_closed"] == 1 and teacher["gap_closed_ci"] == [1, 1]
    assert teacher["first_token_gain_ms"] is None and teacher["first_token_ci"] == [None, None]


@pytest.mark.parametrize(("untimed", "coverage"), [([], 0.75), (["u1"], 1.0), (["u0", "u1"], None)])
def test_first_words_that_nobody_could_time_are_not_wrong(untimed: list[str], coverage: float | None) -> None:
    """As those of whole utterances, or without word times beside others that have them."""

    def without(one: TrainedRun) -> TrainedRun:
        decoded = one.parts[PART]
        hidden = {id: replace(decoded.utterances[id], first_word_ms=None, first_token=None) for id in untimed}
        return replace(one, parts={PART: replace(decoded, utterances=decoded.utterances | hidden)})

    baselines = [without(one) if one.info.row == "streaming" else one for one in RUNS]
    found = {(c.row, c.baseline): c for c in evidence(baselines).comparisons}["new", "streaming"]
    assert found.first_word.coverage == coverage and np.isnan(found.first_word.gain.estimate) == (
        coverage is None
    )


def test_rows_are_compared_on_common_seeds_and_utterances_only() -> None:
    only_first = [RUNS[1], RUNS[2], RUNS[4]]
    late = run("streaming", 3, [9, 9], [0, 0])
    (found,) = [c for c in evidence([*only_first, late]).comparisons if c.row == "new"]
    assert found.num_seeds == 1 and found.wer.estimate == pytest.approx(60)
    longer = run("new", 1, [1, 3, 10], [100, None, 5])
    (again,) = [c for c in evidence([longer, *only_first[1:]]).comparisons if c.row == "new"]
    assert again.wer == found.wer and again.wer.count == 2
    assert evidence([RUNS[1], late]).comparisons == []


def test_a_row_may_be_compared_with_more_than_the_baselines() -> None:
    found = evidence(RUNS, against={"streaming": ["new", "streaming-init"]})
    pairs = [(one.row, one.baseline) for one in found.comparisons]
    assert pairs == [("teacher", "streaming"), ("streaming", "new"), ("new", "streaming")]
    assert found.comparisons[1].wer.estimate == pytest.approx(100 * (1 - 20 / 8))
    after = markdown(found, "make results").split("Against `new`")[1]
    (line,) = [line for line in after.splitlines() if line.startswith("| `")]
    assert line.startswith("| `streaming` | test-clean | −150.0")


def test_without_a_topline_there_is_no_share_of_the_gap() -> None:
    (found,) = evidence(RUNS[:4]).comparisons
    assert found.wer.estimate == pytest.approx(60) and found.as_json()["gap_closed"] is None


def test_a_shared_teacher_stands_beside_every_seed() -> None:
    shared = evidence(RUNS[:5], shared=["teacher"])
    found = {c.row: c for c in shared.comparisons}
    assert found["new"].gap.estimate == pytest.approx((20 - 8) / (20 - 4)) and found["teacher"].num_seeds == 2
    assert shared.incomplete() == {"streaming-init": 0}
    assert evidence(RUNS[:5]).incomplete() == {"teacher": 1, "streaming-init": 0}


def test_the_last_quarter_shows_whether_a_training_has_settled() -> None:
    rows = [MetricsRow("valid", "train", step, 0, {"wer": 100.0 / step}) for step in range(10, 101, 10)]
    trained = TrainedRun(RUNS[0].info, {}, rows)
    assert settled(trained) == (1.0, 1.25)
    assert settled(RUNS[0]) is None


def test_summary_is_json_without_nan(tmp_path: Path) -> None:
    write_summary(evidence(RUNS), tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text and json.loads(text)["incomplete"] == {"streaming-init": 0}


def test_tables_name_every_row_baseline_and_command() -> None:
    tuned = [{
        "row": "new", "learning_rate": 2e-3, "at_edge": True,
        "trials": [{"learning_rate": 1e-3, "dev_wer": 9.0}, {"learning_rate": 2e-3, "dev_wer": 8.0}],
    }]  # fmt: skip
    text = markdown(evidence(RUNS, tuned=tuned), "make results", "results.png")
    assert text.startswith("Every number and the picture of this section: `make results`")
    assert "](results.png)" in text
    without = markdown(evidence(RUNS), "make results")
    assert without.startswith("Every number of this section: `make results`")
    assert "| `new` | teacher | 700 | 2 | 20.00 (" in text and "`streaming` (baseline)" in text
    assert "`teacher` (topline)" in text and "2 utterances, 20 words" in text
    row = next(line for line in text.splitlines() if line.startswith("| `new` | test-clean"))
    assert "+60.0" in row and "fewer" in row and "+0.75" in row
    assert "**0.002**, an end of the range, of 0.001 (9.0), 0.002 (8.0)" in text
    assert "lack seeds" in text and "`streaming-init` (0 of 2)" in text
    # Every line of a table has the columns of its head.
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_the_csv_files_have_the_numbers_of_the_tables(tmp_path: Path) -> None:
    paths = write_csv(evidence(RUNS), "conf", tmp_path)
    assert [path.name for path in paths] == ["conf-rows.csv", "conf-comparisons.csv"]
    rows, comparisons = (list(csv.DictReader(path.open(encoding="utf-8"))) for path in paths)
    by_row = {line["row"]: line for line in rows}
    assert by_row["streaming"] | {"wer_low": "", "wer_high": ""} == {
        "part": PART, "row": "streaming", "role": "baseline", "starts_from": "random weights", "steps": "700",
        "seeds": "2", "wer": "50.00", "wer_low": "", "wer_high": "", "wer_by_seed": "50.00 50.00",
        "first_word_ms": "190", "first_word_right_percent": "100", "first_token_wrong_percent": "0",
        "first_token_premature_percent": "0", "first_token_missing_percent": "0",
        "first_token_ms": "140", "emission_delay_ms": "300", "finalization_ms": "140",
    }  # fmt: skip
    assert by_row["teacher"]["first_token_ms"] == "" and by_row["teacher"]["role"] == "topline"
    new = next(line for line in comparisons if line["row"] == "new")
    assert (new["against"], new["fewer_word_errors_percent"], new["word_errors"]) == (
        "streaming", "60.0", "fewer"
    )  # fmt: skip
    assert new["gap_closed"] == "0.75" and new["first_token_earlier_ms"] == "30"
    assert new["first_word_earlier_ms"] == "30" and new["first_word_both_right_percent"] == "75"
    # Every number of the long tables is there, whatever sign and space it is printed with.
    known = set(re.findall(r"[\d.]+", " ".join(path.read_text() for path in paths)))
    lines = [line for line in markdown(evidence(RUNS), "make").splitlines() if line.startswith("| `")]
    assert lines and not set(re.findall(r"\d[\d.]*", " ".join(lines))) - known


def test_rates_are_lines_of_their_own() -> None:
    trials = [{"learning_rate": 1e-3, "dev_wer": 9.0}, {"learning_rate": 2e-3, "dev_wer": None}]
    tuned = [{"row": "new", "learning_rate": 1e-3, "at_edge": True, "trials": trials}]
    (line,) = records(evidence(RUNS, tuned=tuned))["rates"]
    assert list(line.values()) == ["new", "0.001", "9.0", "yes", "yes"]
    assert [plain(value, 1) for value in (-12345.6, -0.04, None)] == ["-12345.6", "0.0", ""]


def test_short_tables_have_every_row() -> None:
    sizes, means, compared, links = brief(evidence(RUNS), "conf", "results")
    assert sizes == "test-clean has 2 utterances, 20 words."
    assert [line.split("`")[1] for line in means.splitlines()[2:]] == ["teacher", "streaming", "new"]
    assert "| `teacher` (topline) | teacher | 700 | 2 | 10.00 (" in means and "| – |" in means
    (line,) = [line for line in compared.splitlines() if line.startswith("| `")]
    assert line.startswith("| `new` | `streaming` | **+60.0 (")
    assert line.endswith("| +30 (– to –) |")  # not decided: many draws have no first word
    assert "(results/conf-rows.csv)" in links and "(results/conf-comparisons.csv)" in links
    shipped = brief(evidence(RUNS, rank_against="teacher"), "conf", "results")[2]
    assert "| `teacher` | `streaming`" in shipped and "`new`" not in shipped
    close = [*RUNS[2:4], run("new", 1, [5, 6], [9, 9]), run("new", 2, [5, 5], [9, 9])]
    undecided = brief(evidence(close), "conf", "results")[2]
    assert "| −5.0 (" in undecided and "| **+" in undecided  # words are undecided, time is not
    assert brief(evidence([]), "conf", "results") == []


def test_a_variant_on_dev_only_is_in_the_dev_tables() -> None:
    def both(row: str, seed: int) -> list[TrainedRun]:
        return [run(row, seed, [2, 4], [100, 90], part) for part in ("dev-clean", PART)]

    def joined(row: str, seed: int) -> TrainedRun:
        dev, test = both(row, seed)
        return TrainedRun(test.info, dev.parts | test.parts)

    runs = [*(joined(row, seed) for row in ("teacher", "streaming", "streaming-init") for seed in (1, 2))]
    runs += [both("new", seed)[0] for seed in (1, 2)]
    found = evidence(runs, choices=["new"])
    found.parts[:0] = ["dev-clean"]
    assert found.incomplete() == {}
    test, dev = markdown(found, "make results").split("On the dev parts")
    assert "`new`" not in test and "| `new` | dev-clean" in dev and "test-clean (" not in dev
    missing = evidence(runs[:-1], choices=["new"])
    missing.parts[:0] = ["dev-clean"]
    assert missing.incomplete() == {"new": 1}
    assert evidence(RUNS).incomplete() == {"streaming-init": 0}
    assert "On the dev parts" not in markdown(evidence(RUNS), "make results")


def test_an_opening_counts_the_speakers_of_its_parts() -> None:
    parts = {
        part: DecodedPart(
            part, "streaming", Path(), {}, {f"{n}-1-1": utterance(f"{n}-1-1", 1, None) for n in range(count)}
        )
        for part, count in ((PART, 5), ("dev-clean", 7))
    }
    runs = [
        TrainedRun(RunInfo(row, "scratch", 1, 1e-3, 700, Path(row)), parts) for row in ("new", "streaming")
    ]
    found = Evidence(
        ["streaming", "new"], runs, ["streaming"], "teacher", [1], list(parts), test_parts=[PART]
    )
    assert "over 5 speakers and seeds" in opening(found, found.reported, "make results")[1]
    assert "over 5 to 7 speakers and seeds" in opening(found, found.parts, "make results")[1]


def test_a_section_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("# Title\n<!-- results -->\nold\n<!-- /results -->\ntail")
    fill_section(path, "new")
    fill_section(path, "newer")
    assert path.read_text() == "# Title\n<!-- results -->\nnewer\n<!-- /results -->\ntail"


@pytest.mark.parametrize("text", ["nothing", "<!-- results -->", "<!-- results --><!-- /results -->" * 2])
def test_a_document_without_one_pair_of_marks_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "doc.md").write_text(text)
    with pytest.raises(UserError, match=r"doc\.md"):
        fill_section(tmp_path / "doc.md", "new")
    assert (tmp_path / "doc.md").read_text() == text


def test_a_document_may_have_sections_of_several_names(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text("<!-- results -->\nold\n<!-- /results -->\n<!-- lpm -->\nold\n<!-- /lpm -->")
    fill_section(path, "new", "lpm")
    assert path.read_text() == "<!-- results -->\nold\n<!-- /results -->\n<!-- lpm -->\nnew\n<!-- /lpm -->"


def test_recovered_is_a_share_of_the_gap_of_its_seed() -> None:
    entries = recovered(evidence(RUNS), with_lm=True)
    found = {(entry["system"], entry["seed"]): entry["recovered"] for entry in entries}
    # Errors: new 4 and 4, streaming 10 and 10, teacher 2 and 2.
    assert found["new", 1] == found["new", 2] == pytest.approx(6 / 8)
    assert found["streaming", 1] == 0.0 and found["teacher", 2] == 1.0
    assert all(entry["with_lm"] and entry["part"] == PART for entry in entries)
    without = recovered(evidence(RUNS[:4]), with_lm=False)
    assert all(entry["recovered"] is None and entry["with_lm"] is False for entry in without)


def test_the_plot_has_seeds_means_and_the_topline() -> None:
    plot = evidence_plot(evidence(RUNS))
    assert plot is not None
    (axes,) = plot.figure.axes
    points = [line for line in axes.lines if line.get_linestyle() == "None"]
    where = sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in points)  # type: ignore[index,arg-type]
    assert where == [
        (150.0, 20.0), (150.0, 20.0), (150.0, 20.0), (170.0, 50.0), (190.0, 50.0), (210.0, 50.0)
    ]  # fmt: skip
    (topline,) = [line for line in axes.lines if line.get_linestyle() != "None"]
    assert set(topline.get_ydata()) == {10.0}  # type: ignore[arg-type]
    labels = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert labels[:3] == ["1  streaming (baseline)", "2  new", "teacher (topline)"]
    assert "streaming on test-clean: WER 50.0 %" in plot.alt


def test_a_method_with_more_steps_is_a_line_in_their_order() -> None:
    rows = {"much": 2400, "little": 150, "more": 600, "other": 300}
    runs = [run(row, 1, [place, 1], [100 + place, 90]) for place, row in enumerate(rows)]
    runs = [replace(found, info=replace(found.info, steps=rows[found.info.row])) for found in runs]
    lines = {"much": "a", "little": "a", "more": "a", "other": "alone"}
    found = evidence_plot(Evidence(list(rows), runs, [], "teacher", [1], [PART], lines=lines))
    assert found is not None
    (line,) = [line for line in found.figure.axes[0].lines if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
    # First words are 50 ms after first tokens, in the first utterance 100, 101 and 102 ms after its onset.
    assert list(line.get_xdata()) == [145.5, 146.0, 145.0]  # type: ignore[arg-type]
    assert "more and more steps" in found.caption


def test_rows_are_told_apart_without_their_colors() -> None:
    rows = [f"row-{i}" for i in range(20)]
    runs = [run(row, 1, [i, 1], [100 + i, 90]) for i, row in enumerate(["streaming", *rows])]
    found = evidence_plot(Evidence(["streaming", *rows], runs, ["streaming"], "teacher", [1], [PART]))
    assert found is not None
    everything, warm = found.figure.axes
    # Numbers stand where they have room: those of the warm starts in the panel of their own.
    assert [text.get_text() for text in everything.texts] == ["1"]
    assert sorted(int(text.get_text()) for text in warm.texts) == list(range(2, 22))
    for axes, count in ((everything, 21), (warm, 20)):
        large = [line for line in axes.lines if line.get_markersize() > 8]
        assert len({(line.get_marker(), str(line.get_color())) for line in large}) == count


def test_four_baselines_have_a_marker_each() -> None:
    rows = [f"base-{i}" for i in range(4)]
    runs = [run(row, 1, [i, 1], [100 + i, 90]) for i, row in enumerate(rows)]
    found = evidence_plot(Evidence(rows, runs, rows, "teacher", [1], [PART]))
    assert found is not None
    large = [line for line in found.figure.axes[0].lines if line.get_markersize() > 8]
    assert len({line.get_marker() for line in large}) == len(large) == 4


def test_numbers_do_not_lie_on_one_another() -> None:
    runs = [run("streaming", 1, [9, 9], [300, 300])]
    runs += [run(row, 1, [3, 3], [100, 100]) for row in "abcd"]
    found = evidence_plot(Evidence(["streaming", *"abcd"], runs, ["streaming"], "teacher", [1], [PART]))
    assert found is not None
    warm = found.figure.axes[-1]
    pixels = 72 / found.figure.dpi * warm.transData.transform([text.xy for text in warm.texts])  # type: ignore[attr-defined]
    places = pixels + np.array([text.xyann for text in warm.texts])  # type: ignore[attr-defined]
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 99 * np.eye(4)
    assert distances.min() > 6


def test_nothing_streamed_gives_no_plot() -> None:
    assert evidence_plot(evidence(RUNS[4:])) is None
