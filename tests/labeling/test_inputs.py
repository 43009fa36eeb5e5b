"""What is labeled is checked once, and again where it has changed since."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import soundfile
from lhotse import CutSet, Recording
from two_processes import run_two
from whisper_stand_in import speech

from kdasr.common.errors import UserError
from kdasr.labeling import inputs
from kdasr.labeling.inputs import check_apart, read_inputs

NAMES = ("a", "b", "gone")


def write(path: Path, kind: int = 1, seconds: float = 2.0) -> None:
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, speech(seconds, kind), 16000)


def write_all(root: Path) -> None:
    """`cuts.jsonl.gz` with the paths of three files beside it, of which one is gone; and the Shar folder."""
    for name in NAMES:
        write(root / "wav" / f"{name}.flac")
    recordings = [Recording.from_file(root / "wav" / f"{name}.flac") for name in NAMES]
    cuts = CutSet.from_cuts(recording.to_cut().with_id(recording.id) for recording in recordings)
    (root / "shar").mkdir()
    cuts.to_shar(root / "shar", fields={"recording": "flac"}, shard_size=1)
    for recording in recordings:
        recording.sources[0].source = f"wav/{recording.id}.flac"
    cuts.to_file(root / "cuts.jsonl.gz")
    (root / "wav" / "gone.flac").unlink()


def rewritten(root: Path) -> None:
    cuts = CutSet.from_file(root / "cuts.jsonl.gz").subset(first=1)
    cuts.to_file(root / "new.jsonl.gz")
    (root / "new.jsonl.gz").replace(root / "cuts.jsonl.gz")


def replaced(root: Path) -> None:
    write(root / "wav" / "a.flac", 7, 3.0)


def led_elsewhere(root: Path) -> None:
    """The folder becomes a link to one with other audio."""
    (root / "wav").rename(root / "first")
    shutil.copytree(root / "first", root / "second")
    write(root / "second" / "a.flac", 7, 3.0)
    (root / "wav").symlink_to(root / "second")


def come(root: Path) -> None:
    write(root / "wav" / "gone.flac")


def damaged(root: Path) -> None:
    """The file was cut by a full disk."""
    path = root / "out" / "input-files.jsonl.gz"
    path.write_bytes(path.read_bytes()[:40])


def without_a_shard(root: Path) -> None:
    (root / "shar" / "cuts.000002.jsonl.gz").unlink()
    (root / "shar" / "recording.000002.tar").unlink()


@pytest.mark.parametrize(
    ("place", "change", "before", "after"),
    [
        ("cuts.jsonl.gz", rewritten, 2, 1),
        ("cuts.jsonl.gz", replaced, 2, 2),
        ("cuts.jsonl.gz", led_elsewhere, 2, 2),
        ("cuts.jsonl.gz", come, 2, 3),
        ("cuts.jsonl.gz", damaged, 2, 2),
        ("wav", replaced, 2, 2),
        ("wav", led_elsewhere, 2, 2),
        ("wav", come, 2, 3),
        ("shar", without_a_shard, 3, 2),
    ],
)
def test_inputs_are_checked_again_where_they_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    change: Callable[[Path], None],
    before: int,
    after: int,
) -> None:
    write_all(tmp_path)
    checks, real = [], inputs._part
    monkeypatch.setattr(inputs, "_part", lambda *given: checks.append(given) or real(*given))
    read = partial(read_inputs, [tmp_path / place], tmp_path / "out", 2)
    assert [len(read().cuts), len(read().cuts), len(checks)] == [before, before, 1]
    change(tmp_path)
    assert [len(read().cuts), len(read().cuts), len(checks)] == [after, after, 2]


def test_converted_audio_is_never_that_of_earlier_files(tmp_path: Path) -> None:
    """The same names in another folder, at a rate that is converted."""
    found = []
    for place, seconds in (("one", 2.0), ("two", 3.0)):
        (tmp_path / place).mkdir()
        soundfile.write(tmp_path / place / "a.wav", speech(seconds, 1)[::2], 8000)
        inputs_of = read_inputs([tmp_path / place], tmp_path / "out", 1)
        found.append((next(iter(inputs_of.cuts)).duration, inputs_of.digest))
    assert [seconds for seconds, _ in found] == [2.0, 3.0]
    assert found[0][1] != found[1][1]


def test_a_check_that_ended_since_the_start_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that of a process beside this one: not even the files are looked at."""
    write_all(tmp_path)
    read_inputs([tmp_path / "wav"], tmp_path / "out", 1)
    monkeypatch.setattr(inputs, "time_there", lambda folder: 0)
    monkeypatch.setattr(inputs, "_files_at", lambda *given: pytest.fail("looked at"))
    assert len(read_inputs([tmp_path / "wav"], tmp_path / "out", 1).cuts) == 2
    with pytest.raises(pytest.fail.Exception, match="looked at"):
        read_inputs([tmp_path / "cuts.jsonl.gz"], tmp_path / "out", 1)


def _read_and_count(rank: int, port: int, root: Path) -> None:
    real = inputs._part

    def counted(*given: object) -> object:
        (root / f"checked-{rank}").touch()
        return real(*given)  # type: ignore[arg-type]

    inputs._part = counted  # type: ignore[assignment]
    assert len(read_inputs([root / "cuts.jsonl.gz"], root / "out", 1).cuts) == 2


def test_one_of_two_processes_checks(tmp_path: Path) -> None:
    write_all(tmp_path)
    assert run_two(_read_and_count, tmp_path) == [0, 0]
    assert len(list(tmp_path.glob("checked-*"))) == 1


def test_converted_audio_within_the_folder_is_not_labeled(tmp_path: Path) -> None:
    write(tmp_path / "a.flac")
    soundfile.write(tmp_path / "b.wav", speech(2.0, 1)[::2], 8000)
    for _ in range(2):
        cuts = read_inputs([tmp_path], tmp_path / "labels" / "input", 1).cuts
        assert [cut.id for cut in cuts] == ["a", "b"]
        assert (tmp_path / "labels" / "input" / "audio" / "b.flac").is_file()


@pytest.mark.parametrize("place", ["shar", "shar/cuts.000000.jsonl.gz", "shar/dropped", "wav"])
def test_labels_do_not_replace_cuts(tmp_path: Path, place: str) -> None:
    """Neither those to be labeled nor others that `kdasr label` did not write."""
    write_all(tmp_path)
    (tmp_path / "shar" / "dropped").mkdir()
    out = tmp_path / place.partition("/")[0]
    with pytest.raises(UserError, match="would replace it"):
        check_apart([tmp_path / place], out)
    with pytest.raises(UserError, match="has not written"):
        check_apart([tmp_path / "wav"], tmp_path / "shar")
    check_apart([tmp_path / place], tmp_path / "labels")
    (tmp_path / "shar" / "labels").mkdir()
    check_apart([tmp_path / "wav"], tmp_path / "shar")
