"""The job runner itself: what waits for what, what is said, and lists of jobs as `kdasr jobs` reads them."""

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from kdasr.cli.jobs import command
from kdasr.common.errors import UserError
from kdasr.common.job_list import read_jobs
from kdasr.common.job_runner import Job, Outcome, RunOptions, run_jobs

LIST = """
# A recipe.
== Stage 3: teacher
train-teacher:
	echo training
	echo averaging
== Stage 7: decoding
decode: train-teacher
    echo "two words"  'and $HOME'

check:
	false
report: decode | check
	echo tables
"""


def test_a_list_says_what_each_job_needs_and_runs() -> None:
    assert read_jobs(LIST, "list") == [
        Job("train-teacher", ["echo training", "echo averaging"], [], [], "Stage 3: teacher"),
        Job("decode", ["echo \"two words\"  'and $HOME'"], ["train-teacher"], [], "Stage 7: decoding"),
        Job("check", ["false"], [], [], "Stage 7: decoding"),
        Job("report", ["echo tables"], ["decode"], ["check"], "Stage 7: decoding"),
    ]


@pytest.mark.parametrize(
    ("text", "culprits"),
    [
        ("\techo", ["line 1", "belongs to no job"]),
        ("a:\n\techo\n== next\n\techo", ["line 4", "belongs to no job"]),
        ("a b:\n\techo", ["line 1", "'a b:'", "NAME:"]),
        ("a: | b | c\n\techo", ["line 1", "NAME:"]),
        ("a:\n\techo\na:\n\techo", ["line 3", "'a' is there twice"]),
        ("a: b\n\techo\nb:\n\techo", ["line 1", "'a' names 'b'"]),
        ("a: | b\n\techo", ["line 1", "'a' names 'b'"]),
        ("a:\nb:\n\techo", ["'a' has no command"]),
    ],
)
def test_a_wrong_list_is_refused_by_its_line(text: str, culprits: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_jobs(text, "my-list")
    for culprit in ("my-list", *culprits):
        assert culprit in str(caught.value)


def say(tmp_path: Path, **options: object) -> tuple[Outcome, list[str]]:
    """Run `LIST`; the outcome, and what was said."""
    said: list[str] = []
    options = {"logs": tmp_path / "log", **options}
    return run_jobs(read_jobs(LIST, "list"), RunOptions(**options), say=said.append), said  # type: ignore[arg-type]


@pytest.mark.parametrize("num", [1, 3])
def test_a_job_may_wait_for_one_that_fails_and_run_all_the_same(tmp_path: Path, num: int) -> None:
    outcome, said = say(tmp_path, num=num, show=["report"])
    assert outcome.failed == ["check"] and not outcome.skipped
    assert set(outcome.finished) == {"train-teacher", "decode", "report"}
    assert outcome.finished[-1] == "report"
    started = [text.split()[1].rstrip(";") for text in said if text.startswith("started")]
    assert started.index("report") > started.index("check")
    # The whole log of what is shown, and a heading where a stage begins.
    assert next(text for text in said if text.startswith("finished report")).endswith(
        "\n    $ echo tables\n    tables"
    )
    stages = [text.split("  [")[0].strip() for text in said if text.startswith("\n==")]
    assert stages[0] == "== Stage 3: teacher" if num == 1 else "== Stage 3: teacher" in stages
    assert (tmp_path / "log" / "train-teacher.log").read_text() == (
        "$ echo training\ntraining\n$ echo averaging\naveraging\n"
    )


def test_progress_is_the_last_line_of_every_log(tmp_path: Path) -> None:
    script = f"printf 'old\\nstep 1\\rstep 2\\r'; while test ! -e {tmp_path / 'seen'}; do sleep 0.05; done"
    said: list[str] = []

    def note(text: str) -> None:
        said.append(text)
        if "step 2" in text:
            (tmp_path / "seen").touch()

    run_jobs(
        [Job("train", [("/bin/sh", "-c", script)])],
        RunOptions(tmp_path / "log", progress_seconds=0.2),
        say=note,
    )
    (line,) = {text for text in said if "step" in text}
    assert line.split() == ["train", "step", "2"]


def jobs(tmp_path: Path, text: str, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["--exp", str(tmp_path / "exp"), *arguments], input=text)


def test_the_status_of_a_list_is_that_of_its_jobs(tmp_path: Path) -> None:
    good = f"a:\n\techo one > {tmp_path / 'out'}\nb: a\n\tcat {tmp_path / 'out'}\n"
    result = jobs(tmp_path, good, "--jobs", "2", "--show", "b")
    assert result.exit_code == 0 and "\n    one" in result.output
    result = jobs(tmp_path, "a:\n\texit 3\nb: a\n\techo\n", "--jobs", "2")
    assert result.exit_code == 1
    assert "a failed with status 3" in result.output and "failed: a\n" in result.output
    assert "skipped, because they need one that failed: b" in result.output
    assert (tmp_path / "exp" / "log" / "a.log").is_file()


def test_one_job_at_a_time_writes_to_the_output_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print_it = f"{sys.executable} -S -c 'print(6 * 7)'"
    command.main(["--exp", str(tmp_path), str(write(tmp_path, f"a:\n\t{print_it}\n"))], standalone_mode=False)
    assert "\n42\n" in "\n" + capfd.readouterr().out
    assert not (tmp_path / "log").exists()


MEET = "echo $CUDA_VISIBLE_DEVICES > {out}/{one}; while test ! -e {out}/{other}; do sleep 0.05; done"


def test_jobs_side_by_side_have_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs meet; each of their commands, and the job after them, sees one half of the GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    lines = ["again:", "\techo $CUDA_VISIBLE_DEVICES"]
    for one, other in (("a", "b"), ("b", "a")):
        lines += [f"{one}:", "\t" + MEET.format(out=tmp_path, one=one, other=other)]
        lines += [f"\techo $CUDA_VISIBLE_DEVICES > {tmp_path}/{one}2"]
    lines += ["c: a b", f"\techo $CUDA_VISIBLE_DEVICES > {tmp_path}/c"]
    result = jobs(tmp_path, "\n".join(lines), "--jobs", "2", "--gpus", "4")
    assert result.exit_code == 0, result.output
    seen = {name: (tmp_path / name).read_text().strip() for name in ("a", "b", "a2", "b2", "c")}
    assert {seen["a"], seen["b"]} == {"2,3", "5,7"}
    assert (seen["a2"], seen["b2"]) == (seen["a"], seen["b"]) and seen["c"] in ("2,3", "5,7")
    assert "started a on GPU " in result.output


@pytest.mark.parametrize(
    ("arguments", "visible", "message"),
    [
        (("--gpus", "4"), None, "--gpus 4: only 3 can be used here; see `kdasr info`"),
        (("--gpus", "3"), "0,1", "--gpus 3: only 2 can be used here (CUDA_VISIBLE_DEVICES=0,1)"),
        (("--gpus", "3", "--jobs", "2"), None, "--gpus 3: cannot be shared out evenly among --jobs 2"),
    ],
)
def test_gpus_that_are_not_there_are_one_line(
    tmp_path: Path,
    arguments: tuple[str, ...],
    visible: str | None,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    result = jobs(tmp_path, "", *arguments)
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(message) and "\n" not in str(result.exception)


def write(folder: Path, text: str) -> Path:
    path = folder / "jobs"
    path.write_text(text)
    return path
