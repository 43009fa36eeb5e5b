"""The jobs of the recipe over a stand-in for `kdasr`: their order, what a failure ends, what is called."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EGS = Path(__file__).parents[2] / "egs" / "librispeech"
STAND_IN = """#!/usr/bin/env bash
if [[ $1 == jobs ]]; then exec {python} -m kdasr "$@"; fi
line=$(printf '%s\\037' "$@")
printf '%s\\n' "$line" >>"$CALLS"  # at once: others write too
[[ -z ${{FAILS-}} || $* != *"$FAILS"* ]]
"""
SYSTEMS = ("teacher", "streaming", "streaming-init", "two-stage")


class Recipe:
    """A folder, whose name has to be quoted, with a stand-in that notes its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / 'it\'s a "folder"'
        self.exp, self.data = self.folder / "exp", self.folder / "data"
        (self.folder / "bin").mkdir(parents=True)
        script = self.folder / "bin" / "kdasr"
        script.write_text(STAND_IN.format(python=sys.executable))
        script.chmod(0o755)

    def run(
        self,
        *arguments: str,
        fails: str = "",
        script: str = "run.sh",
        size: tuple[str, ...] = ("--size", "tiny"),
    ) -> subprocess.CompletedProcess[str]:
        """Run the recipe; `fails`: commands with this text in them do."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        (self.folder / "calls").write_text("")
        return subprocess.run(
            [
                str(EGS / script),
                *(*size, "--data", str(self.data), "--exp", str(self.exp)),
                *arguments,
            ],
            env=os.environ | {"PATH": path, "CALLS": str(self.folder / "calls"), "FAILS": fails},
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[list[str]]:
        """The calls of the stand-in, in order; words as they arrived."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split("\037")[:-1] for line in lines]

    def place(self, *words: str) -> int:
        """Where the first call is that has all these words."""
        found = [place for place, call in enumerate(self.calls()) if set(words) <= set(call)]
        assert found, words
        return found[0]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return Recipe(tmp_path)


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_every_job_waits_for_what_it_needs(recipe: Recipe, jobs: str) -> None:
    result = recipe.run("--jobs", jobs, "--override", "a={b: [1, 2]}")
    assert result.returncode == 0, result.stdout + result.stderr
    calls = recipe.calls()
    assert [call[0] for call in calls[:3]] == ["corpus", "prepare", "tokens"]
    # Data, trainings, averages, calibrations with their decoding, decodings, export, checks, report.
    assert len(calls) == 3 + 5 + 4 + 4 * 2 + 4 * 2 + 3 + 1
    averaged = recipe.place("average", str(recipe.exp / "teacher"))
    assert averaged < recipe.place("train", "streaming-init")
    assert averaged < recipe.place("train", "--until-stage", "hidden")
    (first, second) = [
        place for place, call in enumerate(calls) if "two-stage" in call and call[0] == "train"
    ]
    assert first < second and "--until-stage" not in calls[second]
    for system in SYSTEMS:
        folder = str(recipe.exp / system)
        train, calibrate = recipe.place("train", folder), recipe.place("calibrate", folder)
        decodes = [
            recipe.place("decode", folder, *mode) for mode in (["offline"], ["streaming"], ["--long-form"])
        ]
        assert train < calibrate < decodes[0] < min(decodes[1:])
    export = recipe.place("export", "--out")
    assert (
        recipe.place("calibrate", str(recipe.exp / "two-stage")) < export < recipe.place("export", "--check")
    )
    assert calls[-1] == ["report", str(recipe.exp), "--data", str(recipe.data)]
    # Options arrive as they were given.
    takers = [call for call in calls if call[0] in ("prepare", "tokens", "train")]
    assert all("a={b: [1, 2]}" in call for call in takers) and len(takers) == 2 + 5
    assert (recipe.exp / "log" / "report.log").exists() == (jobs != "1")
    assert "== Stage 3: teacher" in result.stdout and "== Stage 11: report" in result.stdout


def test_places_with_spaces_have_an_option_each(recipe: Recipe) -> None:
    (recipe.folder / "my cuts").mkdir()
    mine = str(recipe.folder / "my cuts")
    cuts = ("--cuts", f"train={mine}", "--cuts", "dev=a test=b")
    expected = ["--cuts", f"train={mine}", "--cuts", "dev=a", "--cuts", "test=b"]
    assert recipe.run("--corpus", "cuts", *cuts, "--stop-stage", "1").returncode == 0
    (prepare,) = recipe.calls()
    assert prepare[1:7] == expected
    untold = ("--untranscribed", mine, "--untranscribed", "c d", "--stop-stage", "1")
    assert recipe.run(*cuts, *untold, script="run_whisper.sh", size=()).returncode == 0
    label, _, prepare = recipe.calls()
    assert label[3:9] == ["--cuts", mine, "--cuts", "c", "--cuts", "d"] and prepare[1:7] == expected


def test_overrides_of_a_study_reach_its_data(recipe: Recipe) -> None:
    result = recipe.run("--override", "data.vocab_size=20", "--rows", "a b", script="run_results.sh")
    assert result.returncode == 0, result.stderr
    assert [call[0] for call in recipe.calls()] == ["corpus", "prepare", "tokens", "results"]
    assert all("data.vocab_size=20" in call for call in recipe.calls()[1:])
    result = recipe.run("--dry-run", script="run_results.sh")  # prepares nothing
    assert "kdasr corpus" in result.stdout and "kdasr tokens" in result.stdout
    ((verb, *words),) = recipe.calls()
    assert verb == "results" and words[-1] == "--dry-run"


def test_a_wrong_export_fails_the_recipe_after_its_report(recipe: Recipe) -> None:
    bundle, parts = recipe.exp / "two-stage" / "export", ("test-clean", "test-other")
    for checked in (bundle / "manifest.json", *(recipe.data / f"cuts_{part}.jsonl.gz" for part in parts)):
        checked.parent.mkdir(parents=True, exist_ok=True)
        checked.touch()
    result = recipe.run("--jobs", "2", "--stage", "9", fails="export --check")
    assert result.returncode == 1 and "failed: check-export-" in result.stderr
    assert recipe.calls()[-1][0] == "report"
    # Checked again as long as it fails, and then once.
    assert recipe.run("--stage", "9").returncode == 0
    recipe.place("export", "--check")
    assert recipe.run("--stage", "9").returncode == 0
    assert not any("--check" in call for call in recipe.calls())
    (bundle / "manifest.json").unlink()  # what was said is not of an export that is gone
    assert recipe.run("--stage", "9").returncode == 0
    recipe.place("export", "--check")


def test_a_failure_skips_what_needs_it_and_names_both(recipe: Recipe) -> None:
    result = recipe.run("--jobs", "2", "--stage", "3", fails="--system streaming-init")
    assert result.returncode == 1 and "failed: train-streaming-init\n" in result.stderr
    skipped = result.stderr.split("need one that failed: ")[1].split("\n")[0].split(", ")
    kinds = ("offline", "streaming", "long-form")
    assert skipped == [*(f"decode-{kind}-streaming-init" for kind in kinds), "report"]
    recipe.place("decode", "--long-form", str(recipe.exp / "two-stage"))
    assert "train-streaming-init failed with status 1" in result.stdout


def test_a_stage_alone_takes_the_others_as_finished(recipe: Recipe) -> None:
    result = recipe.run("--stage", "4", "--stop-stage", "4", "--systems", "teacher streaming mine")
    assert result.returncode == 0, result.stderr
    assert [call[call.index("--system") + 1] for call in recipe.calls()] == ["streaming", "mine"]


def test_a_dry_run_prints_the_commands_and_calls_nothing(recipe: Recipe) -> None:
    result = recipe.run("--dry-run", "--parts", "train-clean-100 dev-clean test-clean")
    assert result.returncode == 0 and not recipe.calls()
    for text in ("kdasr corpus", "== Stage 4", "train-streaming-init: train-teacher", "kdasr report"):
        assert text in result.stdout, text


def test_gpus_are_shared_out_among_trainings_and_decodings(recipe: Recipe) -> None:
    result = recipe.run("--dry-run", "--gpus", "4", "--jobs", "2")
    assert result.returncode == 0, result.stderr
    lines = [line.strip() for line in result.stdout.splitlines()]
    launched = "torchrun --standalone --nproc-per-node 2 --no-python kdasr "
    for verb, count in (("train", 5), ("decode", 12)):
        found = [line for line in lines if f"kdasr {verb} " in line]
        assert len(found) == count and all(line.startswith(launched) for line in found)
    computed = [line for line in lines if "kdasr decode " in line or "kdasr calibrate " in line]
    assert len(computed) == 16 and all("--device cuda" in line for line in computed)
    assert all("training.accelerator=cuda" in line for line in lines if "kdasr train " in line)
    # One process each, and so nobody to share with.
    result = recipe.run("--dry-run", "--gpus", "2", "--jobs", "2")
    assert "torchrun" not in result.stdout and "--device cuda" in result.stdout
    assert "cuda" not in recipe.run("--dry-run").stdout


def test_gpus_that_are_not_there_end_the_recipe_at_once(recipe: Recipe) -> None:
    result = recipe.run("--gpus", "99")
    assert result.returncode == 1 and not recipe.calls()
    assert result.stderr.startswith("kdasr: error: --gpus 99: only ") and result.stderr.count("\n") == 1


def test_every_chunk_is_decoded(recipe: Recipe) -> None:
    result = recipe.run("--gain-db", "-20", script="run_chunks.sh")
    assert result.returncode == 0, result.stderr
    (call,) = [call for call in recipe.calls() if call[0] == "decode" and "streaming" in call]
    assert {"--all-contexts", str(recipe.exp / "unified"), "--gain-db", "-20"} <= set(call)
    assert recipe.place("train", "teacher") < recipe.place("train", "unified")
    assert recipe.calls()[-1][0] == "report"
