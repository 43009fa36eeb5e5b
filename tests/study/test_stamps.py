"""Jobs with stamps run in order, side by side and once; failures and interruptions leave the rest whole."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kdasr.common.errors import UserError
from kdasr.common.job_runner import Outcome, Stopped
from kdasr.study.stamps import StampedJob, Stamps, run_stamped

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def job(name: str, *scripts: str, **options: Any) -> StampedJob:
    """A job whose commands are shell scripts."""
    return StampedJob(name, [("/bin/sh", "-c", script) for script in scripts], **options)


def note(path: Path, word: str) -> str:
    return f"echo {word} >> {path}"


def test_jobs_follow_what_they_need_and_a_second_call_runs_nothing(tmp_path: Path) -> None:
    notes, exp = tmp_path / "notes", tmp_path / "exp"
    jobs = [
        job("teacher", note(notes, "teacher"), note(notes, "averaged")),
        job("student", note(notes, "student"), needs=["teacher"]),
        job("decode", note(notes, "decode"), needs=["student"]),
    ]
    first = run_stamped(jobs, exp, 3)
    assert first.finished == ["teacher", "student", "decode"] and not first.unchanged
    assert notes.read_text().split() == ["teacher", "averaged", "student", "decode"]
    second = run_stamped(jobs, exp, 3)
    assert second.unchanged == ["teacher", "student", "decode"] and not second.finished
    assert len(notes.read_text().split()) == 4


def test_commands_see_one_thread_and_leave_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    run_stamped([job("seed-1/row.train", "echo threads $OMP_NUM_THREADS; echo loud >&2")], tmp_path, 1)
    log = (tmp_path / "log" / "seed-1" / "row.train.log").read_text()
    assert "threads 1" in log and "loud" in log and "$ /bin/sh -c" in log


def trained(
    exp: Path, settings: dict[str, Any], needs: tuple[str, ...] = (), name: str = "row"
) -> StampedJob:
    """A job that appends to a file in a folder of its own."""
    folder = exp / name
    return job(
        name,
        f"mkdir -p {folder}; {note(folder / 'steps', 'trained')}",
        settings=settings,
        needs=needs,
        folder=folder,
        outputs=[folder / "steps"],
    )


def test_a_changed_job_and_those_that_need_it_run_again_and_no_other(tmp_path: Path) -> None:
    def jobs(rate: float) -> list[StampedJob]:
        teacher = trained(tmp_path, {"rate": rate}, name="teacher")
        return [teacher, trained(tmp_path, {}, ("teacher",), "student"), trained(tmp_path, {}, name="other")]

    said: list[str] = []
    run_stamped(jobs(0.1), tmp_path, 2, said.append)
    assert not any("again" in text for text in said)
    again = run_stamped(jobs(0.2), tmp_path, 2, said.append)
    assert sorted(again.finished) == ["student", "teacher"] and again.unchanged == ["other"]
    remarks = [text.partition(";")[0] for text in said if " again: " in text]
    assert remarks == ["teacher again: rate: 0.1 -> 0.2", "student again: teacher was run again"]
    assert f"what was there is in {tmp_path / 'replaced' / 'teacher-1'}" in "".join(said)
    # What was trained before lies aside, and was not trained on.
    for name in ("teacher", "student"):
        assert (tmp_path / name / "steps").read_text().split() == ["trained"]
        assert (tmp_path / "replaced" / f"{name}-1" / "steps").is_file()


def test_a_removed_result_runs_again_with_dependents(tmp_path: Path) -> None:
    jobs = [
        trained(tmp_path, {}, name="teacher"),
        trained(tmp_path, {}, ("teacher",), "student"),
    ]
    run_stamped(jobs, tmp_path, 1)
    (tmp_path / "teacher" / "steps").unlink()
    assert Stamps(tmp_path / "stamps").why_again(jobs[0]) == f"{tmp_path / 'teacher' / 'steps'} is gone"
    assert Stamps(tmp_path / "stamps").why_again(jobs[1]) == ""
    # The driver is gone after the teacher: the next one must still see that the student is out of date.
    assert run_stamped(jobs[:1], tmp_path, 1).finished == ["teacher"]
    assert run_stamped(jobs, tmp_path, 1).finished == ["student"]


def test_a_new_option_at_its_default_changes_no_stamp(tmp_path: Path) -> None:
    run_stamped([job("a", "true", settings={"rate": 1})], tmp_path, 1)

    def now(new: int) -> StampedJob:
        return job("a", "true", settings={"rate": 1, "new": new}, reread=lambda old: {"new": 0, **old})

    assert run_stamped([now(0)], tmp_path, 1).unchanged == ["a"]
    assert run_stamped([now(1)], tmp_path, 1).finished == ["a"]


def test_a_broken_job_skips_only_what_depends_on_it(tmp_path: Path) -> None:
    said: list[str] = []
    broken, healed = tmp_path / "broken", tmp_path / "healed"
    broken.touch()
    jobs = [
        job("bad", f"echo the reason; test ! -e {broken}"),
        job("child", "true", needs=["bad"]),
        job("grandchild", "true", needs=["child"]),
        job("good", note(healed, "good")),
    ]
    outcome = run_stamped(jobs, tmp_path / "exp", 1, said.append)
    assert outcome == Outcome(finished=["good"], failed=["bad"], skipped=["child", "grandchild"])
    report = next(text for text in said if "failed" in text)
    assert "bad failed with status 1" in report and "the reason" in report and "bad.log" in report
    broken.unlink()
    again = run_stamped(jobs, tmp_path / "exp", 1)
    assert again == Outcome(unchanged=["good"], finished=["bad", "child", "grandchild"])
    assert healed.read_text().split() == ["good"]


def test_a_whole_chain_is_skipped_when_nothing_else_is_left(tmp_path: Path) -> None:
    chain = [job("a", "false"), job("b", "true", needs=["a"]), job("c", "true", needs=["b"])]
    assert run_stamped(chain, tmp_path, 1) == Outcome(failed=["a"], skipped=["b", "c"])


def test_later_commands_do_not_run_after_one_that_fails(tmp_path: Path) -> None:
    outcome = run_stamped([job("a", "exit 3", note(tmp_path / "notes", "late"))], tmp_path, 1)
    assert outcome.failed == ["a"] and not (tmp_path / "notes").exists()


def test_a_job_that_leaves_nothing_has_failed(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = run_stamped([job("a", "true", outputs=[tmp_path / "model.pt"])], tmp_path, 1, said.append)
    assert outcome.failed == ["a"] and "model.pt" in "".join(said)


def test_independent_jobs_run_side_by_side_but_not_more_than_asked(tmp_path: Path) -> None:
    def meet(own: str, other: str) -> str:
        seen = f"test -e {tmp_path / other} && exit 0"
        return f"touch {tmp_path / own}; for i in $(seq 600); do {seen}; sleep 0.05; done; exit 1"

    assert run_stamped([job("a", meet("a", "b")), job("b", meet("b", "a"))], tmp_path, 2).failed == []
    busy = tmp_path / "busy"
    alone = f"mkdir {busy} && sleep 0.05 && rmdir {busy}"
    assert run_stamped([job(name, alone) for name in "cdefg"], tmp_path, 1).failed == []


def interrupt_when(path: Path, number: int) -> threading.Thread:
    """Send this process a signal once a file exists."""

    def watch() -> None:
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.fixture
def heeded() -> Iterator[None]:
    """No signal is ignored, as SIGHUP is where the tests run below nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_lets_jobs_save_and_the_next_call_goes_on(tmp_path: Path, number: int, heeded: None) -> None:
    folder, running = tmp_path / "row", tmp_path / "running"
    saved = folder / "checkpoint"
    script = (
        f"mkdir -p {folder}; test -e {saved} && exit 0; "
        f"trap 'touch {saved}; exit 130' TERM; touch {running}; "
        "for i in $(seq 400); do sleep 0.05; done; exit 1"
    )
    jobs = [job("row", script, folder=folder), job("next", "true", needs=["row"])]
    usual = [signal.getsignal(number) for number in STOPS]
    thread = interrupt_when(running, number)
    with pytest.raises(Stopped) as stopped:
        run_stamped(jobs, tmp_path, 2)
    assert stopped.value.signal == number
    thread.join()
    assert saved.exists()
    begun = Stamps(tmp_path / "stamps").read("row")
    assert begun is not None and not begun.finished
    # The folder was kept: the script ends at once because its checkpoint is there.
    assert run_stamped(jobs, tmp_path, 2).finished == ["row", "next"]
    assert not (tmp_path / "replaced").exists()
    assert Stamps(tmp_path / "stamps").id_of("row") == begun.id
    assert [signal.getsignal(number) for number in STOPS] == usual


def test_a_job_that_was_begun_with_other_settings_does_not_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "row"
    begun = job("row", f"mkdir {folder}; exit 1", folder=folder, settings={"rate": 1})
    assert run_stamped([begun], tmp_path, 1).failed == ["row"]
    changed = job("row", f"mkdir {folder}", folder=folder, settings={"rate": 2})
    assert run_stamped([changed], tmp_path, 1).finished == ["row"]
    assert (tmp_path / "replaced" / "row-1").is_dir()


def test_two_drivers_do_not_share_a_folder(tmp_path: Path) -> None:
    refused: list[str] = []

    def second(text: str) -> None:
        if text.startswith("started"):
            with pytest.raises(UserError, match="another") as caught:
                run_stamped([], tmp_path, 1)
            refused.append(str(caught.value))

    run_stamped([job("a", "true")], tmp_path, 1, second)
    assert len(refused) == 1 and str(tmp_path) in refused[0]
    # A child of a driver that was killed holds the lock as well.
    inherited = tmp_path / "inherited"
    run_stamped([job("b", f"ls -l /proc/self/fd > {inherited}")], tmp_path, 1)
    assert str(tmp_path / ".lock") in inherited.read_text()


def test_a_damaged_stamp_is_named(tmp_path: Path) -> None:
    run_stamped([job("a", "true")], tmp_path, 1)
    path = Stamps(tmp_path / "stamps").path("a")
    path.write_text("{")
    with pytest.raises(UserError, match=str(path)):
        run_stamped([job("a", "true")], tmp_path, 1)
