"""What `deploy/` starts is a command that there is."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from kdasr.cli.serve import command

DEPLOY = Path(__file__).parents[2] / "deploy"


def started(name: str) -> list[str]:
    """The command line in a file."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    if name == "Dockerfile":
        found = re.search(r"^CMD (.*)$", text, flags=re.MULTILINE)
        return list(json.loads(found[1])) if found else []
    found = re.search(r"^ExecStart=(.*)$", text, flags=re.MULTILINE)
    return shlex.split(found[1]) if found else []


@pytest.mark.parametrize("name", ["Dockerfile", "kdasr.service"])
def test_command_has_the_options_that_it_is_started_with(name: str, tmp_path: Path) -> None:
    program, verb, exp, *arguments = started(name)
    assert (Path(program).name, verb, exp[0]) == ("kdasr", "serve", "/")
    (tmp_path / "token").touch()  # systemd puts it into a folder of its own, %d
    arguments = [argument.replace("%d", str(tmp_path)) for argument in arguments]
    parameters = command.make_context("serve", [str(tmp_path), *arguments]).params
    assert parameters["port"] == 6006


def test_image_is_built_from_files_that_there_are() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert copied
    for name in copied:
        assert (DEPLOY.parent / name).exists()
        assert f"!{name}" in ignored


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze to check the unit")
def test_unit_is_one_of_systemd(tmp_path: Path) -> None:
    program = tmp_path / "kdasr"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = (DEPLOY / "kdasr.service").read_text(encoding="utf-8")
    copy = tmp_path / "kdasr.service"
    copy.write_text(unit.replace("/opt/kdasr/venv/bin/kdasr", str(program)))
    result = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in result.stderr.splitlines() if "kdasr.service" in line]
    assert complaints == []
