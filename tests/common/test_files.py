import os
from pathlib import Path

import pytest

from kdasr.common.files import atomic_path, read_json, write_json, write_text


def test_success_replaces_the_target_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    for text in ("one", "two"):
        write_text(target, text)
        assert target.read_text() == text
    assert os.listdir(target.parent) == ["file.txt"]  # noqa: PTH208


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_the_old_target_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_the_target_is_untouched_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"


def test_a_device_that_takes_no_bytes_raises() -> None:
    # /dev/full fails every write with "no space left on device".
    with pytest.raises(OSError, match="space"), Path("/dev/full").open("w") as file:
        file.write("x" * 10)
        file.flush()


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "é" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
