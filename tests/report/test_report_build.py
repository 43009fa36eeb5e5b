"""The whole report from a made-up experiment: its numbers, its page, and what it says about gaps."""

import csv
import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from fake_experiment import PARTS, SYSTEMS, write_data, write_experiment, write_system, write_training
from headless_browser import browser, find_browser

from kdasr.cli.report import command
from kdasr.common.errors import UserError
from kdasr.report.build import collect_results, write_report
from kdasr.report.results import compare
from kdasr.report.roles import Roles

NUM_UTTERANCES = 8


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_experiment(tmp_path_factory.mktemp("whole") / "demo", num_utterances=NUM_UTTERANCES)


@pytest.fixture(scope="module")
def report(experiment: Path) -> Path:
    data = write_data(experiment.parent / "data", NUM_UTTERANCES)
    return write_report(collect_results([experiment]), data)


def _rows(folder: Path, system: str, part: str) -> list[dict]:
    path = folder / system / "decode" / "streaming" / part / "utterances.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.skipif(find_browser() is None, reason="no Chromium; install one, or name it in KDASR_BROWSER")
def test_tables_fit_a_page_of_1200_pixels(report: Path, tmp_path: Path) -> None:
    with (
        browser(str(find_browser()), tmp_path / "profile", tmp_path / "no-microphone.wav") as chromium,
        chromium.tab((report / "index.html").as_uri()) as tab,
    ):
        size = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        tab.call("Emulation.setDeviceMetricsOverride", **size)
        scrolling = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
        assert tab.run("document.querySelectorAll('.scroll table').length") > 3
        assert tab.run(f"{scrolling}.map((e) => e.getAttribute('aria-label'))") == []


def test_results_json_is_a_recomputation_from_the_utterances(experiment: Path, report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    assert [(row["system"], row["part"]) for row in results] == [
        (system, part) for system in SYSTEMS for part in PARTS
    ]
    for row in results:
        utterances = _rows(experiment, row["system"], row["part"])
        errors = sum(u["errors"][kind] for u in utterances for kind in ("sub", "ins", "del"))
        words = sum(len(u["ref"].split()) for u in utterances)
        assert row["num_words"] == words and row["num_utterances"] == NUM_UTTERANCES
        assert row["wer"] == pytest.approx(100 * errors / words)
        assert row["wer_ci"][0] <= row["wer"] <= row["wer_ci"][1]
        distances = [jiwer.process_characters(u["ref"], u["hyp"]) for u in utterances]
        edits = sum(d.substitutions + d.deletions + d.insertions for d in distances)
        assert row["cer"] == pytest.approx(100 * edits / sum(len(u["ref"]) for u in utterances))
        assert row["measure"] == "wer"
        first = [u["first_token_ms"] for u in utterances if u["first_token_ms"] is not None]
        expected = {f"p{rank}": np.percentile(first, rank) for rank in (50, 90, 99)}
        expected |= {"mean": np.mean(first), "count": len(first)}
        expected["wall_mean"] = np.mean([u["first_token_wall_ms"] for u in utterances])
        assert row["first_token_ms"] == pytest.approx(expected)
        delays = [delay for u in utterances for delay in u["emission_delay_ms"]]
        assert row["emission_delay_ms"]["mean"] == pytest.approx(np.mean(delays))
        assert row["train_steps"] == sum(steps for _, steps, _ in SYSTEMS[row["system"]].stages)
        assert row["rtf"] == 0.031 and row["params"] == 2_310_000
        heard = [word for u in utterances for word in u["words"]]
        right = [word["confidence"] for word in heard if word["ref_index"] is not None]
        wrong = [word["confidence"] for word in heard if word["ref_index"] is None]
        confidence = row["confidence"]
        assert (confidence["words"], confidence["wrong"]) == (len(heard), len(wrong))
        area = np.mean([float(good > bad) for good in right for bad in wrong]) if right and wrong else None
        assert confidence["auc"] == (None if area is None else pytest.approx(area))
        assert sum(part["words"] for part in confidence["reliability"]) == len(heard)
        assert confidence["calibrated"] == (row["system"] != "streaming")


def test_comparisons_pair_two_stage_with_both_baselines(experiment: Path, report: Path) -> None:
    found = json.loads((report / "comparisons.json").read_text())
    keys = {(c["row"], c["baseline"], c["part"]) for c in found}
    pairs = {("two-stage", "streaming"), ("two-stage", "streaming-init"), ("streaming-init", "streaming")}
    assert keys == {(*pair, part) for pair in pairs for part in PARTS}
    for c in found:
        ours, theirs = (_rows(experiment, c[name], c["part"]) for name in ("row", "baseline"))
        errors = [sum(u["errors"][k] for u in rows for k in ("sub", "ins", "del")) for rows in (ours, theirs)]
        assert c["wer_rel_reduction"] == pytest.approx(100 * (1 - errors[0] / errors[1]))
        gains = [b["first_token_ms"] - a["first_token_ms"] for a, b in zip(ours, theirs, strict=True)]
        assert c["first_token_gain_ms"] == pytest.approx(np.mean(gains))
        assert c["first_token_ci"][0] <= c["first_token_gain_ms"] <= c["first_token_ci"][1]


def test_csv_has_a_line_per_result_with_the_numbers_of_the_json(experiment: Path, report: Path) -> None:
    results = json.loads((report / "results.json").read_text())
    with (report / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(results)
    for line, row in zip(lines, results, strict=True):
        assert (line["system"], line["part"]) == (row["system"], row["part"])
        assert float(line["wer"]) == row["wer"] and float(line["wer_high"]) == row["wer_ci"][1]
        assert float(line["first_token_p90_ms"]) == row["first_token_ms"]["p90"]
        assert float(line["first_token_wall_mean_ms"]) == row["first_token_ms"]["wall_mean"]
        assert float(line["finalization_mean_ms"]) == row["finalization_ms"]["mean"]
        assert int(line["params"]) == row["params"] and line["onset"] == "alignment"


@pytest.mark.parametrize("spoken", [0, 1])
def test_a_part_of_few_words_or_none_is_reported(spoken: int, tmp_path: Path) -> None:
    """Without words there are no rates, with those of one utterance in many no intervals."""
    folder = tmp_path / "my exp"  # and commands can be copied where names have spaces
    write_experiment(folder, {name: SYSTEMS[name] for name in ("streaming", "two-stage")}, 3)
    for decoded in folder.glob("*/decode/streaming/test-clean"):
        rows = [json.loads(line) for line in (decoded / "utterances.jsonl").read_text().splitlines()]
        for row in rows[spoken:]:
            row |= {"ref": "", "hyp": "", "tokens": [], "words": [], "ref_words": [], "emission_delay_ms": []}
            row |= dict.fromkeys(("first_token_ms", "first_token_wall_ms", "finalization_ms"))
            row["errors"] = dict.fromkeys(("sub", "ins", "del", "words"), 0)
            row["char_errors"] = dict.fromkeys(("sub", "ins", "del", "chars"), 0)
        (decoded / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        summary = json.loads((decoded / "summary.json").read_text()) | {"wer": None, "signal": None}
        (decoded / "summary.json").write_text(json.dumps(summary))
    out = write_report(collect_results([folder]))
    with (out / "results.csv").open(newline="") as file:
        silent = [line for line in csv.DictReader(file) if line["part"] == "test-clean"]
    found = [(bool(line["wer"]), line["cer_high"], line["num_words"] != "0") for line in silent]
    assert found == [(spoken > 0, "", spoken > 0)] * 2
    page = (out / "index.html").read_text()
    lines = re.findall(r"kdasr (?:decode|report|train) [^<\n]*my exp[^<\n]*", page)
    words = [shlex.split(html.unescape(line)) for line in lines]
    assert len(words) > 4 and all(any(word.startswith(str(folder)) for word in line) for line in words)


def test_error_rates_at_other_levels_are_in_json_and_page(experiment: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment / "two-stage", tmp_path / "two-stage")
    folder = tmp_path / "two-stage" / "decode" / "streaming" / PARTS[0]
    results = [{"gain_db": gain, "wer": wer, "cer": 1.0} for gain, wer in ((-20.0, 41.5), (0.0, 3.25))]
    (folder / "gain.json").write_text(json.dumps({"settings": {}, "results": results}))
    summary = json.loads((folder / "summary.json").read_text())
    summary["signal"] = {"faults": {"too quiet": 3}}
    (folder / "summary.json").write_text(json.dumps(summary))
    report = write_report(collect_results([tmp_path]))
    rows = {row["part"]: row for row in json.loads((report / "results.json").read_text())}
    assert rows[PARTS[0]]["gains"] == results and "gains" not in rows[PARTS[1]]
    page = (report / "index.html").read_text()
    assert all(text in page for text in ("−20 dB", "41.50", "3.25", "faulty (too quiet 3)"))


class _PageReader(HTMLParser):
    """Collects what the page loads or points to, its ids, and its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.references += [str(values[key]) for key in ("src", "href", "srcset", "data") if values.get(key)]
        self.ids += [str(values["id"])] if values.get("id") else []
        if values.get("role") == "img" or tag == "img":
            self.images.append(values)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_self_contained(experiment: Path, report: Path) -> None:
    page = (report / "index.html").read_text()
    reader = _PageReader()
    reader.feed(page)
    outside = [target for target in reader.references if not target.startswith(("#", "data:"))]
    assert outside == [] and "script" not in reader.tags and "link" not in reader.tags
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert len(reader.ids) == len(set(reader.ids))
    inner = {target[1:] for target in reader.references if target.startswith("#")}
    inner |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert inner <= set(reader.ids)


def test_page_names_systems_parts_and_describes_every_plot(experiment: Path, report: Path) -> None:
    reader = _PageReader()
    reader.feed((report / "index.html").read_text())
    for name in (*SYSTEMS, *PARTS):
        assert name in reader.text
    found = collect_results([experiment]).headline
    assert found.lead in reader.text and found.detail in reader.text
    # Six plots of the results and three utterances, each with a description and a picture beside the page.
    assert len(reader.images) == 9
    assert all(len(image.get("alt") or image.get("aria-label") or "") > 40 for image in reader.images)
    assert len(list(report.glob("*.png"))) == 9
    # Colors follow the theme, and the spectrograms are there.
    page = (report / "index.html").read_text()
    assert "stroke: var(--system-3)" in page and page.count("<image") == 3
    assert "A stream that goes on" not in page


def test_same_input_gives_the_same_files(experiment: Path, report: Path, tmp_path: Path) -> None:
    again = write_report(collect_results([experiment]), experiment.parent / "data", tmp_path)
    for name in ("results.json", "comparisons.json", "results.csv", "index.html"):
        assert (again / name).read_bytes() == (report / name).read_bytes(), name


def test_absent_data_folder_is_stated_and_leaves_the_timelines(experiment: Path, tmp_path: Path) -> None:
    write_report(collect_results([experiment]), tmp_path / "gone", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Spectrograms are left out" in page and str(tmp_path / "gone") in page
    assert page.count("Timeline of one utterance") == 3 and "<image" not in page


def test_missing_and_unfinished_systems_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    write_system(folder / "streaming", "streaming", SYSTEMS["streaming"], 4)
    write_training(folder / "two-stage", "two-stage", SYSTEMS["two-stage"])
    shutil.rmtree(folder / "streaming" / "decode" / "streaming" / "test-other")
    short = replace(SYSTEMS["streaming-init"], stages=(("train", 300, {"rnnt": 1.0}),))
    write_system(folder / "streaming-init", "streaming-init", short, 4)
    config = (folder / "streaming-init" / "config.yaml").read_text()
    (folder / "streaming-init" / "config.yaml").write_text(config.replace("300", "1000"))
    results = collect_results([folder])
    notes = {(note.subject, note.text.split(":")[0].split(" (")[0]) for note in results.notes}
    assert ("teacher", "missing") in notes
    assert ("two-stage", "not decoded") in notes
    assert ("streaming-init", "unfinished") in notes
    assert ("streaming", "not decoded on test-other.") in notes
    page = (write_report(results) / "index.html").read_text()
    assert "missing: not trained in this experiment" in page and "trained 1\u202f000 of 1\u202f000" in page
    assert "kdasr decode" in page and "no comparison of two-stage" in page


def test_unequal_training_is_stated(tmp_path: Path) -> None:
    longer = replace(SYSTEMS["two-stage"], stages=(("train", 5000, {"rnnt": 1.0}),))
    write_experiment(tmp_path, {"streaming": SYSTEMS["streaming"], "two-stage": longer}, 4)
    results = collect_results([tmp_path])
    assert any(note.subject == "two-stage" and "5\u202f000 steps" in note.text for note in results.notes)


def test_offline_decoding_counts_for_errors_but_not_for_latency(tmp_path: Path) -> None:
    write_system(tmp_path / "streaming", "streaming", SYSTEMS["streaming"], 4)
    write_system(tmp_path / "teacher", "teacher", SYSTEMS["teacher"], 4, mode="offline")
    path = tmp_path / "teacher" / "decode" / "offline" / "test-clean" / "utterances.jsonl"
    rows = [json.loads(line) | {"first_token_ms": 7.0} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    results = collect_results([tmp_path])
    [command] = [note.command for note in results.notes if "no latency" in note.text]
    assert command.startswith(f"kdasr decode {tmp_path / 'teacher'} ")
    (tmp_path / "teacher" / "config.yaml").unlink()  # as results of a teacher that is elsewhere
    results = collect_results([tmp_path])
    assert [note.command for note in results.notes if "no latency" in note.text] == [""]
    by_system = {row.system: row for row in results.rows if row.part == "test-clean"}
    assert by_system["teacher"].mode == "offline" and by_system["teacher"].wer.count == 4
    assert by_system["teacher"].first_token_ms["mean"] is None
    assert by_system["streaming"].first_token_ms["mean"] is not None
    student, teacher = (
        next(s for s in results.systems if s.name == name) for name in ("streaming", "teacher")
    )
    compared = compare(student, teacher, "test-clean")
    assert compared is not None and compared.first_word.coverage is None  # not 0: nobody could be right


def test_systems_that_were_scored_against_other_words_are_named(tmp_path: Path) -> None:
    """One was decoded before a transcript was corrected: as many utterances, and other words in one."""
    write_experiment(tmp_path, {name: SYSTEMS[name] for name in ("streaming", "two-stage")}, 4)
    path = tmp_path / "streaming" / "decode" / "streaming" / "test-clean" / "utterances.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    before = collect_results([tmp_path])
    rows[0]["ref"] = rows[0]["ref"].upper()
    rows[1]["ref"] += " again"
    rows[1]["errors"]["words"] += 1
    rows[1]["errors"]["del"] += 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = collect_results([tmp_path])
    notes = [[note.text for note in one.notes if "transcripts" in note.text] for one in (before, after)]
    assert notes[0] == [] and len(notes[1]) == 1 and "transcripts of 1 utterances" in notes[1][0]
    assert not any("different utterances" in note.text for note in after.notes)
    (compared,) = [c for c in after.comparisons if (c.baseline, c.part) == ("streaming", "test-clean")]
    (row,) = [row for row in after.rows if (row.system, row.part) == ("streaming", "test-clean")]
    assert compared.baseline_wer == pytest.approx(row.wer.estimate)


def test_streaming_decoding_is_preferred(tmp_path: Path) -> None:
    write_system(tmp_path / "streaming", "streaming", SYSTEMS["streaming"], 4)
    write_system(tmp_path / "streaming", "streaming", SYSTEMS["streaming"], 6, mode="offline")
    results = collect_results([tmp_path])
    assert {(row.mode, row.num_utterances) for row in results.rows} == {("streaming", 4)}


def test_systems_without_any_token_or_latency_are_reported(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"streaming": replace(SYSTEMS["streaming"], error_rate=0.0)}, 3)
    for part in PARTS:
        folder = tmp_path / "streaming" / "decode" / "streaming" / part
        rows = [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]
        for row in rows:
            row |= {"hyp": "", "tokens": [], "words": [], "first_token_ms": None, "finalization_ms": None}
            row |= {"first_token_wall_ms": None, "emission_delay_ms": [], "ref_words": []}
            row["errors"] |= {"del": row["errors"]["words"]}
        (folder / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        summary = json.loads((folder / "summary.json").read_text()) | {"wer": 100.0, "onset": "energy"}
        (folder / "summary.json").write_text(json.dumps(summary))
    results = collect_results([tmp_path])
    assert [row.wer.estimate for row in results.rows] == [100.0, 100.0]
    assert any("energy" in note.text for note in results.notes)
    assert "an energy onset" in (write_report(results) / "index.html").read_text()


def test_a_single_system_folder_is_enough(tmp_path: Path) -> None:
    write_system(tmp_path / "my-model", "my-model", SYSTEMS["streaming"], 4)
    results = collect_results([tmp_path / "my-model"])
    assert {row.system for row in results.rows} == {"my-model"} and results.notes == []


def test_equal_names_in_two_experiments_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_experiment(tmp_path / name, {"streaming": SYSTEMS["streaming"]}, 3)
    results = collect_results([tmp_path / "a", tmp_path / "b"])
    assert list(dict.fromkeys(row.system for row in results.rows)) == ["streaming", "b/streaming"]


def test_order_of_systems(tmp_path: Path) -> None:
    names = ("zeta", "two-stage", "alpha", "streaming", "teacher")
    write_experiment(tmp_path, dict.fromkeys(names, SYSTEMS["streaming"]), 2)
    results = collect_results([tmp_path])
    order = list(dict.fromkeys(row.system for row in results.rows))
    assert order == ["teacher", "streaming", "two-stage", "alpha", "zeta"]


def _strip_roles(folder: Path, **changes: dict) -> None:
    """Make the configurations those of an experiment that is older than the section `report`."""
    for path in folder.glob("*/config.yaml"):
        config = yaml.safe_load(path.read_text())
        del config["report"]
        path.write_text(yaml.safe_dump(config | changes.get(path.parent.name.replace("-", "_"), {})))


def test_roles_are_guessed_for_experiments_that_do_not_state_them(experiment: Path, tmp_path: Path) -> None:
    shutil.copytree(experiment, tmp_path, dirs_exist_ok=True)
    stated = collect_results([tmp_path])
    start = {"stages": [{"name": "train", "num_steps": 1000, "init_from": "teacher"}]}
    learns = {"objective": {"teacher": "teacher"}}
    _strip_roles(tmp_path, streaming_init=start, two_stage=learns)
    guessed = collect_results([tmp_path])
    assert guessed.roles == stated.roles
    assert [system.name for system in guessed.systems] == [system.name for system in stated.systems]
    assert guessed.comparisons == stated.comparisons
    # What the systems are called elsewhere decides nothing.
    for number, name in enumerate(SYSTEMS):
        (tmp_path / name).rename(tmp_path / f"{9 - number}")
    other = collect_results([tmp_path])
    assert other.roles == Roles(("9",), ("8", "7"), "6")
    assert [(c.row, c.baseline) for c in other.comparisons[:2]] == [("7", "8"), ("7", "8")]
    assert "6 makes" in other.headline.lead and "7 from the teacher’s weights" in other.headline.detail


def test_roles_are_those_of_the_recipe(tmp_path: Path) -> None:
    write_experiment(tmp_path, {"mine": SYSTEMS["two-stage"], "theirs": SYSTEMS["streaming"]}, 4)
    stated = {"report": {"baselines": ["theirs"], "method": "mine"}}
    _strip_roles(tmp_path, mine=stated, theirs=stated)
    results = collect_results([tmp_path])
    assert {(c.row, c.baseline) for c in results.comparisons} == {("mine", "theirs")}
    assert [system.name for system in results.systems] == ["theirs", "mine"]
    assert "mine makes" in results.headline.lead and results.notes == []


def test_nothing_decoded_is_refused_with_the_command_that_helps(tmp_path: Path) -> None:
    write_training(tmp_path / "teacher", "teacher", SYSTEMS["teacher"])
    with pytest.raises(UserError, match=r"no decoded system.*teacher.*kdasr decode .*teacher --data nowhere"):
        collect_results([tmp_path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"utterances\.jsonl, line 1: not JSON"),
        ("[1]", r"utterances\.jsonl, line 1: expected an object"),
        ('{"id": "a"}', r"utterances\.jsonl, line 1: not a decoded utterance.*errors"),
        ("", r"0 utterances, but summary\.json counts 4"),
    ],
)
def test_unreadable_utterances_name_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    write_experiment(tmp_path, {"streaming": SYSTEMS["streaming"]}, 4)
    path = tmp_path / "streaming" / "decode" / "streaming" / "test-clean" / "utterances.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        collect_results([tmp_path])


def test_folders_that_hold_no_system_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="gone: no such folder; expected the folder of a system that kdasr train wrote"
    ):
        collect_results([tmp_path / "gone"])
    with pytest.raises(UserError, match=r"holds no system.*kdasr train"):
        collect_results([tmp_path])


def test_command_prints_the_table_and_writes_to_out(experiment: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [str(experiment), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for name in (*SYSTEMS, *PARTS, "index.html", "fewer word errors"):
        assert name in result.output
    assert (tmp_path / "out" / "results.json").is_file()
