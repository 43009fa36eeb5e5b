"""The list of options is whole, and the document says what it says."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from kdasr.cli.options import command
from kdasr.common.configio import build_config
from kdasr.common.ranges import options_of
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.options import recipe_options

DOCUMENT = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_document_lists_the_options_of_today() -> None:
    result = CliRunner().invoke(command, ["--markdown"])
    assert result.exit_code == 0
    assert DOCUMENT.read_text(encoding="utf-8") == result.output


def test_every_option_is_listed_and_says_what_it_means() -> None:
    listed = {option.key.replace("[conformer]", ""): option for option in recipe_options()}
    sections = {key for key, _ in options_of(ExperimentConfig)} - set(listed)
    assert all(any(key.startswith(f"{section}.") for key in listed) for section in sections)
    assert [key for key, option in listed.items() if not option.meaning] == []


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
