import os
import signal
from pathlib import Path

import pytest

from kdasr.common.errors import UserError
from kdasr.common.files import atomic_path, read_json, read_object, write_json, write_text


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


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff", b"[" * 100_000, b'{"a": 1}{"a": 1}'])
def test_a_damaged_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(UserError, match=r"some\.json: not JSON") as caught:
        read_json(tmp_path / "some.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "5", "null", '"text"'])
def test_json_of_another_kind_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "some.json").write_text(content)
    with pytest.raises(UserError, match=r"some\.json: expected a JSON object"):
        read_object(tmp_path / "some.json")


def test_what_a_kill_leaves_is_taken_for_the_next_file(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    write_text(target, "old")
    pid = os.fork()
    if not pid:
        with atomic_path(target) as temporary:
            temporary.write_text("half of something longer")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert target.read_text() == "old" and len(list(tmp_path.iterdir())) == 2
    write_text(target, "new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    with atomic_path(target) as one:
        one.write_text("one")
        with atomic_path(target) as two:
            assert one != two
            two.write_text("two")
        assert target.read_text() == "two"
        write_text(target, "three")
    assert target.read_text() == "one" and list(tmp_path.iterdir()) == [target]
