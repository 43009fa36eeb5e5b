"""`tools/gpu_check.sh` and its benchmark, as far as that is possible without a GPU."""

import os
import subprocess
from pathlib import Path

import gpu_table
import pytest
import torch

ROOT = Path(__file__).parents[2]


def test_a_corpus_that_was_not_prepared_is_not_taken_for_done(tmp_path: Path) -> None:
    """A command in the middle of a step fails, those after it would not."""
    commands = {
        "python": '[ "$1" != -c ] || echo 0',
        "kdasr": f'echo "$1" >> "{tmp_path}/called"; [ "$1" != prepare ]',
    }
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STEPS": "2"}
    command = [str(ROOT / "tools" / "gpu_check.sh"), str(tmp_path / "out")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, "error: corpus failed" in result.stderr) == (1, True)
    assert not (tmp_path / "out" / "corpus.seconds").exists()
    assert (tmp_path / "called").read_text().split() == ["corpus", "prepare"]


def test_without_a_measurement_the_document_stays_as_it_is(tmp_path: Path) -> None:
    """Steps that are none are refused before anything is made."""
    tool, out = ROOT / "tools" / "gpu_check.sh", tmp_path / "out"
    environment = os.environ | {"STEPS": "1,3"}
    result = subprocess.run([tool, out], env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, out.exists()) == (1, False)
    assert "STEPS '1,3': expected some of 1 2 3 4" in result.stderr
    out.mkdir()
    with pytest.raises(SystemExit, match="nothing was measured"):
        gpu_table.table(out)
    (out / "epoch.json").write_text('{"seconds": 90.4, "peak_mib": 2048.2, "device": "H200"}')
    assert gpu_table.table(out).splitlines()[-1].endswith("| 90 | 2048 | H200 |")


def test_the_clock_of_a_gpu_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch asks another package for it, which nothing here installs."""
    pytest.importorskip("triton")
    from bench_gpu import clock_mhz

    def without() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")

    monkeypatch.setattr(torch.cuda, "clock_rate", without)
    assert clock_mhz() is None
