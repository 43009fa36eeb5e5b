"""A full disk, missing rights and missing memory are one line; other errors are seen as they are."""

import errno
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdasr.cli.main import cli
from kdasr.common.errors import UserError
from kdasr.common.failures import explain
from kdasr.common.files import atomic_path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/x/y"), "/x/y: the disk is full. Free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied"),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 12 bytes\nmore"),
            "out of memory: Default",
        ),
        (
            RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. \n"),
            "DataLoader worker (pid 5)",
        ),
        *(
            (RuntimeError(text), "another process of this training has ended")
            for text in (
                "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:46308",
                "[gloo/transport/tcp/pair.cc:451] writev [127.0.0.1]:46308: Broken pipe",
                "ncclRemoteError: A call failed, perhaps as a remote process exited",
                "a remote process exiting prematurely",
                "failed to recv, got 0 bytes",
            )
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), None),
        (RuntimeError("shape mismatch"), None),
        (ValueError("wrong"), None),
    ],
)
def test_what_is_explained_is_one_line(error: Exception, message: str | None) -> None:
    found = explain(error)
    assert found is None if message is None else found is not None and found.startswith(message)
    assert "\n" not in (found or "")


def test_a_hidden_disk_error_is_found() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/exp/last.pt")
        except OSError as inner:
            raise RuntimeError("PytorchStreamWriter failed writing file") from inner
    except RuntimeError as error:
        assert (explain(error) or "").startswith("/exp/last.pt: the disk is full")


def test_a_write_that_fails_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "result.json"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(tmp_path / "result.json") and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "file" / "result.json"):
        pass
    assert caught.value.filename == str(tmp_path / "file" / "result.json")


@pytest.mark.parametrize(
    "arguments",
    [
        ("corpus", "synthetic", "--size", "tiny", "--out"),
        ("corpus", "text", "--size", "tiny", "--sentences", "5", "--out"),
        ("train", "--config", "CONF", "--exp"),
    ],
)
def test_a_file_in_the_way_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "conf.yaml").write_text("training: {accelerator: cpu}\n")
    words = [str(tmp_path / "conf.yaml") if word == "CONF" else word for word in arguments]
    result = CliRunner().invoke(cli, [*words, str(tmp_path / "file" / "out")])
    assert isinstance(result.exception, UserError), result.exception
    assert str(tmp_path / "file") in str(result.exception) and "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        *((verb, "nowhere") for verb in ("average", "report", "decode", "calibrate", "align", "export")),
        *((verb, "nowhere") for verb in ("stream", "serve")),
        ("export", "nowhere", "--out", "export"),
        ("export", "--check", ".", "cuts", "--against", "nowhere"),
        ("serve", ".", "--compare", "nowhere"),
        ("distill", "--teacher", "nowhere"),
    ],
)
def test_a_folder_that_is_not_there_is_named_with_what_is_expected(arguments: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, arguments)
    assert isinstance(result.exception, UserError), result.output
    assert str(result.exception).startswith("nowhere: not there; expected the folder of a system that kdasr")
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("verb", ["tokens", "average", "report"])
def test_what_processes_do_not_share_is_refused_below_torchrun(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    result = CliRunner().invoke(cli, [verb, "exp"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"kdasr {verb}: 4 processes were started (WORLD_SIZE)")
    assert CliRunner().invoke(cli, ["decode", "--help"]).exit_code == 0
