"""Long streams in the report: results.json, the page, its plots and the terminal."""

import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner
from fake_experiment import SYSTEMS, write_experiment, write_long_form

from kdasr.cli.report import command
from kdasr.common.errors import UserError
from kdasr.report.build import collect_results
from kdasr.report.experiment import read_experiments
from kdasr.report.long_form import counts, long_form_rows
from kdasr.report.long_form_plot import gap_plot, minutes_plot
from kdasr.report.style import system_styles
from kdasr.report.tables import print_tables

STUDENTS = ("streaming", "two-stage")


SILENT = {
    **dict.fromkeys(
        ("wer", "single_wer", "shifted_wer", "wer_increase", "relative_increase", "first_word_coverage")
    ),
    "wer_ci": [None, None],
    "wer_increase_ci": [None, None],
    "words": 0,
}
"""What is measured where nothing is said."""


def write(folder: Path) -> Path:
    experiment = write_experiment(folder, {name: SYSTEMS[name] for name in STUDENTS}, 3)
    for name, wer in zip(STUDENTS, (40.0, 30.0), strict=True):
        write_long_form(experiment / name, "test-clean", wer)
    return experiment


def change(experiment: Path, system: str, part: str, **values: object) -> None:
    """Replace values of every condition; "gone" takes one away."""
    path = experiment / system / "decode" / "long-form" / part / "summary.json"
    summary = json.loads(path.read_text())
    for condition in summary["conditions"]:
        condition |= values
        for name in [name for name, value in values.items() if value == "gone"]:
            del condition[name]
    path.write_text(json.dumps(summary))


class Reported(NamedTuple):
    experiment: Path
    output: str
    page: str


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """Two systems on long streams of test-clean, and one on streams of test-other without a word."""
    experiment = write(tmp_path_factory.mktemp("long-form") / "demo")
    write_long_form(experiment / "streaming", "test-other", gaps=(0.0,))
    change(experiment, "streaming", "test-other", **SILENT)
    result = CliRunner().invoke(command, [str(experiment)])
    assert result.exit_code == 0, result.output
    return Reported(experiment, result.output, (experiment / "report" / "index.html").read_text())


def test_results_json_has_every_condition_beside_its_system_and_part(reported: Reported) -> None:
    rows = json.loads((reported.experiment / "report" / "results.json").read_text())
    assert {(row["system"], row["part"]): len(row["long_form"]) for row in rows} == {
        ("streaming", "test-clean"): 4,
        ("streaming", "test-other"): 2,
        ("two-stage", "test-clean"): 4,
        ("two-stage", "test-other"): 0,
    }
    for row in rows:
        for condition in row["long_form"]:
            assert (condition["system"], condition["part"]) == (row["system"], row["part"])
    found = next(row["long_form"] for row in rows if row["system"] == "two-stage")
    assert [(c["gap_s"], c["endpoints"], c["wer"], c["deletions"]) for c in found] == [
        (0.0, False, 30.0, 30),
        (0.0, True, 15.0, 15),
        (1.0, False, 30.0, 30),
        (1.0, True, 15.0, 15),
    ]


def test_page_and_terminal_show_long_streams(reported: Reported) -> None:
    for text in ("20 utterances of a part", "test-clean, two-stage", "1 s quiet", "0/30/0", "600, 90 %"):
        assert text in reported.output
    for text in ('id="long-form"', 'id="long-form-minutes"', "A stream that goes on", "1 s quiet", "+650 %"):
        assert text in reported.page
    assert (
        "two-stage on test-clean, pause 1 s quiet, endpoints yes: 15.0 %, one by one 4.0 %" in reported.page
    )
    assert "two-stage on test-clean, endpoints no: minute 1 30.0 %, minute 2 30.0 %" in reported.page
    assert (reported.experiment / "report" / "long-form.png").is_file()


def test_streams_without_words_are_in_the_tables_and_not_drawn(reported: Reported) -> None:
    assert "test-other, streaming" in reported.output
    assert "streaming on test-clean, pause none" in reported.page
    assert "streaming on test-other, pause none" not in reported.page
    silent = [row for row in long_form_rows(read_experiments([reported.experiment])) if not row["words"]]
    styles = system_styles(STUDENTS)
    assert len(silent) == 2 and gap_plot(silent, styles) is None and minutes_plot(silent, styles) is None


NEWER = ("shifted_wer", "wer_ci", "wer_increase", "wer_increase_ci", "relative_increase", "single_wer")
NEWER += ("first_word_ms", "first_word_coverage", "single_first_word_ms", "single_first_word_coverage")
NEWER += ("emission_delay_ms", "wer_by_minute", "onset")
"""What an older version may not have written."""


@pytest.mark.parametrize("absent", [("shifted_wer",), NEWER])
def test_a_summary_of_an_older_version_is_shown_without_what_it_lacks(
    tmp_path: Path, absent: tuple[str, ...]
) -> None:
    change(write(tmp_path), "two-stage", "test-clean", **dict.fromkeys(absent, "gone"))
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("Note: older version")]
    assert "decode/long-form/test-clean/summary.json of two-stage: without" in line
    assert all(name in line for name in absent)
    shown = result.output.split("test-clean, two-stage")[1].splitlines()[1]
    assert "30.00" in shown and shown.count("–") >= len(absent) // 2
    assert line.removeprefix("Note: older version of kdasr: ") in (tmp_path / "report/index.html").read_text()


@pytest.mark.parametrize(
    ("change_of", "fault"),
    [
        ({"deletions": "gone"}, "condition 1: no 'deletions': damaged"),
        ({"wer": "much"}, "condition 1: 'wer' is 'much': damaged"),
        ({"wer_ci": [1.0]}, r"condition 1: 'wer_ci' is \[1.0\]: damaged"),
        ({"first_word_ms": {}}, "condition 1: 'first_word_ms' is {}: damaged"),
        ({"wer_by_minute": [{"minute": 1}]}, "condition 1: 'wer_by_minute' is"),
    ],
)
def test_a_damaged_summary_is_named(tmp_path: Path, change_of: dict[str, object], fault: str) -> None:
    change(write(tmp_path), "two-stage", "test-clean", **change_of)
    place = "two-stage/decode/long-form/test-clean/summary.json, "
    with pytest.raises(UserError, match=place + fault):
        collect_results([tmp_path])


def test_no_table_is_cut_where_there_is_no_terminal(
    reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the environment says of a terminal that is not the output."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    found, name = (
        collect_results([reported.experiment]),
        "a-system-with-a-name-longer-than-a-terminal-is-wide",
    )
    renamed = [replace(row, system=name) for row in found.rows]
    with StringIO() as output:
        monkeypatch.setattr("sys.stdout", output)
        print_tables(renamed, found.comparisons, found.long_form)
        text = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
    assert "…" not in text
    for heading in ("WER %", "finali-", "fewer errors, %", "sub/del/ins", "one by one", "steps", "params"):
        assert heading in text
    # Each line of figures is whole: the name is in its first column, the steps are in its last.
    assert {line.split()[-1] for line in text.splitlines() if name in line} == {"1000"}


def test_a_part_decoded_only_as_streams_is_named(tmp_path: Path) -> None:
    write_long_form(write(tmp_path) / "two-stage", "dev-clean")
    change(tmp_path, "two-stage", "dev-clean", num_utterances=18)
    results = collect_results([tmp_path])
    assert any("only on dev-clean: not in results.json" in note.text for note in results.notes)
    assert counts(results.long_form) == "18 to 20"
