"""The list of options is whole, and the document says what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdasr.cli.options import command
from kdasr.common.configio import build_config
from kdasr.common.ranges import options_of
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.options import recipe_options

DOCUMENT = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_document_lists_the_options_of_today_and_what_they_mean() -> None:
    """In a process of its own: other tests add encoders and terms."""
    command_line = [sys.executable, "-m", "kdasr", "options", "--markdown"]
    written = subprocess.run(command_line, capture_output=True, text=True, check=True).stdout
    assert DOCUMENT.read_text(encoding="utf-8") == written
    rows = [line.strip("| \n").split(" | ") for line in written.splitlines() if line.startswith("| `")]
    assert [cells for cells in rows if len(cells) != 4 or not cells[3].strip()] == []


def test_every_option_is_listed() -> None:
    listed = {re.sub(r"\[\w+\]", "", option.key) for option in recipe_options()}
    declared = {key for key, _ in options_of(ExperimentConfig)}
    assert {
        key for key in declared - listed if not any(name.startswith(f"{key}.") for name in listed)
    } == set()


def test_a_default_may_be_written_down() -> None:
    """What the list calls the default is the default, and an option that exists under that name."""
    plain = {option.key: option for option in recipe_options() if not set("[0*") & set(option.key)}
    written = [f"{key}={option.default}" for key, option in plain.items()]
    assert len(written) > 100
    assert build_config(ExperimentConfig, overrides=written) == build_config(ExperimentConfig)


@pytest.mark.parametrize(("words", "found"), [(("jitter",), "data.join.jitter = 0.0"), ((), "seed = 1")])
def test_options_are_found_by_words(words: tuple[str, ...], found: str) -> None:
    assert found in CliRunner().invoke(command, words).output


def test_words_that_no_option_has_are_named() -> None:
    assert "'xyzzy'" in str(CliRunner().invoke(command, ["xyzzy"]).exception)
