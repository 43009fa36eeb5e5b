"""What the README tells people to type is there, and its Python example runs."""

import re
import subprocess
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdasr.checkpoint import save_checkpoint
from kdasr.cli.main import VERBS
from kdasr.common.configio import config_to_dict
from kdasr.testing import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE = (ROOT / "egs" / "librispeech" / "README.md").read_text(encoding="utf-8")


def test_make_targets_and_commands_that_the_readmes_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", README + RECIPE, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    verbs = set(re.findall(r"`kdasr ([a-z]+)", README + RECIPE))
    assert verbs and verbs <= set(VERBS)


def test_make_help_is_the_whole_head_of_the_makefile_and_names_the_targets() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    head = [
        line.removeprefix("#").removeprefix(" ")
        for line in takewhile(lambda line: line.startswith("#"), lines)
    ]
    said = subprocess.run(
        ["make", "-C", ROOT, "-s", "help"], capture_output=True, text=True, check=True
    ).stdout
    assert [line for line in said.splitlines() if not line.startswith("make[")] == head
    for target in ("demo", "test", "bench", "teacher", "student", "report"):
        assert re.search(rf"\b{target}\b", said), target


def test_options_of_the_recipe_that_the_readmes_name_exist() -> None:
    script = (ROOT / "egs" / "librispeech" / "run.sh").read_text(encoding="utf-8")
    commands = " ".join(re.findall(r"run\.sh((?:[^\n`]|\\\n)*)", README + RECIPE))
    options = set(re.findall(r"--[a-z-]+", commands))
    assert {"--corpus-dir", "--size"} <= options
    for option in options - {"--help"}:
        assert f"#   {option} " in script or f"[{option} " in script, option


def test_files_and_folders_that_the_readmes_link_to_exist() -> None:
    for folder, text in ((ROOT, README), (ROOT / "egs" / "librispeech", RECIPE)):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (folder / link).exists(), link


def test_the_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = tmp_path / "exp" / "demo" / "two-stage"
    tokenizer = tiny_tokenizer(experiment / "tokens")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    save_checkpoint(
        experiment / "checkpoints" / "best.pt",
        {
            "model_config": config_to_dict(model.config),
            "model": model.state_dict(),
            "context": {"left": 32, "chunk": 8, "right": 0},
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "system": "two-stage",
            "train_steps": 0,
        },
    )
    noise = np.random.default_rng(0).normal(0, 0.1, 16000)
    soundfile.write(tmp_path / "speech.wav", noise, 16000)
    example = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert example is not None
    exec(compile(example.group(1), "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 11
