"""sherpa-onnx on long streams: the pieces, frames and segments of our own recognizer."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from export_helpers import bursts, save_student, write_cuts

from kdasr.cli.export import _load, command
from kdasr.common.errors import UserError
from kdasr.evaluation.joining import Pause
from kdasr.evaluation.long_form_run import LongForm
from kdasr.export.check import Clip
from kdasr.export.check_long_form import compare_long_form

UTTERANCES = [Clip(f"7-2-000{seed}", bursts(1.3 + seed / 3, seed), "ONE") for seed in range(5)]
PAUSES = [Pause(), Pause(3.0, "quiet"), Pause(3.0, "silence")]


def test_the_client_hears_long_streams_as_we_do(student, tmp_path: Path) -> None:
    options = LongForm(PAUSES, minutes=0.2)
    found = list(compare_long_form(student.bundle, student.system, UTTERANCES, options))
    assert [comparison.name for comparison in found] == [
        f"greedy search, long streams, {pause}, {way}"
        for pause in PAUSES
        for way in ("no endpoints", "endpoint resets")
    ]
    for comparison in found:
        assert comparison.differences == [] and comparison.num_pieces > 30
        assert comparison.identical == {spoken.id: True for spoken in UTTERANCES}
        assert comparison.errors.words == 5
    assert found[-1].num_resets > 0 and found[-2].num_resets == 0
    stranger = save_student(tmp_path, student.bundle.context, seed=2)
    for comparison in compare_long_form(student.bundle, stranger, UTTERANCES, options):
        assert not any(comparison.identical.values())
    with pytest.raises(UserError, match="no utterances"):
        list(compare_long_form(student.bundle, student.system, [], options))


def test_audio_is_read_when_its_turn_comes(student, tmp_path: Path) -> None:
    """None of it stays in memory."""
    waves = [spoken.samples_N for spoken in UTTERANCES[:2]]
    clips = _load(write_cuts(tmp_path, waves), student.system.tokenizer)
    for clip, wave_N in zip(clips, waves, strict=True):
        np.testing.assert_array_equal(clip.samples_N, wave_N)
        assert len(clip.source) == len(wave_N)
    write_cuts(tmp_path, [-wave_N for wave_N in waves])
    np.testing.assert_array_equal(clips[1].samples_N, -waves[1])


def test_the_command_checks_long_streams_when_asked(student, tmp_path: Path) -> None:
    cuts = write_cuts(tmp_path, [spoken.samples_N for spoken in UTTERANCES[:2]])
    check = ["--check", str(student.bundle.folder), str(cuts)]
    result = CliRunner().invoke(command, [*check, "--long-form", "--gaps", "0,1", "--gap-noise", "quiet"])
    assert result.exit_code == 0, result.output
    assert sum("long streams, " in line for line in result.output.splitlines()) == 4
    assert result.output.splitlines()[-1] == "2 of 2 utterances identical"
    for arguments, culprit in (
        ([*check, "--gaps", "1"], "--gaps needs --long-form"),
        ([str(student.folder), "--out", str(tmp_path / "out"), "--long-form"], "--long-form needs --check"),
        ([*check, "--long-form", "--gaps", "soon"], "'soon' is not a number"),
    ):
        failed = CliRunner().invoke(command, arguments)
        assert isinstance(failed.exception, UserError) and culprit in str(failed.exception)
