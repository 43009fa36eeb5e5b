"""What recipes are tested with: a `kdasr` that is quick to start does what the real one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_kdasr import warm_folder

from kdasr import __version__


def call(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(warm_folder() / "kdasr"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def test_folder_streams_environment_and_exit_status_are_those_of_the_call(tmp_path: Path) -> None:
    assert call("--version").stdout == f"kdasr, version {__version__}\n"
    wrong = call("nope")
    assert wrong.returncode == 2 and "No such command 'nope'" in wrong.stderr
    missing = call("results", "none.yaml", "--data", ".", "--exp", "exp", cwd=tmp_path)
    assert missing.returncode != 0 and "none.yaml" in missing.stderr
    jobs = "one:\n\techo $WORD $PWD\ntwo: one\n\texit 3\n"
    environment = os.environ | {"WORD": "heard"}
    done = call("jobs", "--exp", "exp", input=jobs, cwd=tmp_path, env=environment)
    assert done.returncode == 1 and f"heard {tmp_path}" in done.stdout and "two failed" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_reach_it(number: signal.Signals, tmp_path: Path) -> None:
    mark = tmp_path / "started"
    command = [str(warm_folder() / "kdasr"), "jobs", "--exp", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(f"one:\n\techo $PPID >{mark}; exec sleep 60\n")
        process.stdin.close()
        deadline = time.monotonic() + 100
        while not (mark.is_file() and mark.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait(timeout=100) == (-number if number == signal.SIGKILL else 128 + number)
    served = int(mark.read_text())
    while Path(f"/proc/{served}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sys.platform != "linux" or not Path(f"/proc/{served}").exists()
