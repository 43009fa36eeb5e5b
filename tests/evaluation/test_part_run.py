"""What is decoded of a part is kept at once, and a recording that cannot be heard costs itself."""

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner
from experiment_folder import prepare_part, write_experiment

from kdasr.cli.decode import command as decode
from kdasr.common.errors import UserError
from kdasr.common.ranks import Ranks, ShardedJournal, forget_journal
from kdasr.evaluation import batches, evaluate
from kdasr.evaluation.evaluate import make_record
from kdasr.evaluation.part_run import PARTIAL
from kdasr.testing import write_corpus

PART = "test-clean"
MEASURED = ("wall", "first_token_wall_ms", "first_token_parts_ms", "compute_seconds")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment in `exp`, and a part of six utterances in `data`."""
    folder = tmp_path_factory.mktemp("part_run")
    write_experiment(folder / "exp")
    write_corpus(folder / "corpus", [PART])
    prepare_part(folder / "corpus", folder / "data", PART)
    return folder


def run(root: Path, out: Path, mode: str, *options: object) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records without what is measured, and the summary."""
    threads = torch.get_num_threads()
    where = [root / "exp", "--data", root / "data", "--parts", PART, "--out", out, "--mode", mode]
    result = CliRunner().invoke(decode, [str(word) for word in (*where, *options)])
    torch.set_num_threads(threads)
    if result.exception:
        raise result.exception
    assert result.exit_code == 0
    return results(out / mode / PART)


def results(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Records and summary of a part that is finished, without what is measured."""
    assert not list(folder.glob(f"{PARTIAL}*"))
    lines = (folder / "utterances.jsonl").read_text().split("\n")[:-1]
    records = [json.loads(line) for line in lines]
    for record in records:
        for item in (record, *record["tokens"], *record["words"]):
            for name in MEASURED:
                item.pop(name, None)
    summary = json.loads((folder / "summary.json").read_text())
    for name in ("first_token_ms", "rtf"):
        summary.pop(name)
    return records, summary


def stopping_at(*numbers: int) -> Callable[..., dict[str, Any]]:
    """`make_record`, which is interrupted at these of its calls."""
    calls = count(1)

    def make(*arguments: Any, **options: Any) -> dict[str, Any]:
        if next(calls) in numbers:
            raise KeyboardInterrupt
        return make_record(*arguments, **options)

    return make


@pytest.mark.parametrize(
    ("mode", "options", "kept"),  # kept: records when it was stopped, by the number of records made till then
    [("streaming", [], {2: 1, 6: 4}), ("streaming", ["--streams", 2], {2: 0, 7: 4}), ("offline", [], {2: 0})],
)
def test_an_interrupted_part_goes_on_to_the_same_records(
    root: Path,
    tmp_path: Path,
    mode: str,
    options: list[Any],
    kept: dict[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run(root, tmp_path / "whole", mode, *options)
    monkeypatch.setattr(evaluate, "make_record", stopping_at(*kept))
    for kept_now in kept.values():
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(root, tmp_path / "parts", mode, *options)
        lines = (tmp_path / "parts" / mode / PART / f"{PARTIAL}-0").read_text().split("\n")[1:-1]
        assert sum(len(json.loads(line)[1]["items"]) for line in lines) == kept_now
    parts = run(root, tmp_path / "parts", mode, *options)
    assert parts == whole and len(parts[0]) == 6


def run_rank(root: Path, out: Path, rank: int, *options: object, world_size: int = 2) -> None:
    """What torchrun starts as one of its processes; they need not run at the same time."""
    variables = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        where = [root / "exp", "--data", root / "data", "--parts", PART, "--out", out]
        result = CliRunner().invoke(decode, [str(word) for word in (*where, *options)])
    if result.exception:
        raise result.exception


@pytest.mark.parametrize(
    ("mode", "options"), [("streaming", ["--gain-db", -20]), ("streaming", ["--streams", 2]), ("offline", [])]
)
def test_processes_that_share_a_part_write_what_one_writes(
    root: Path, tmp_path: Path, mode: str, options: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_SECONDS", 4.0)
    whole = run(root, tmp_path / "whole", mode, *options)
    arguments = ["--mode", mode, *options]
    folder = tmp_path / "shared" / mode / PART
    run_rank(root, tmp_path / "shared", 1, *arguments)
    assert not (folder / "summary.json").exists()
    # The other one is killed within its share.
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "make_record", stopping_at(2))
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run_rank(root, tmp_path / "shared", 0, *arguments)
    assert not (folder / "summary.json").exists()
    run_rank(root, tmp_path / "shared", 0, *arguments)
    assert results(folder) == whole
    left = [{path.name for path in out.iterdir()} for out in (folder, tmp_path / "whole" / mode / PART)]
    assert left[0] == left[1]
    if "--gain-db" in options:
        gains = [json.loads((out / mode / PART / "gain.json").read_text()) for out in tmp_path.iterdir()]
        assert gains[0] == gains[1]


@pytest.mark.parametrize("mode", ["streaming", "offline"])
def test_a_bad_recording_is_named_and_counts_nowhere(root: Path, tmp_path: Path, mode: str) -> None:
    """The results are those of the other recordings."""
    whole, _ = run(root, tmp_path / "whole", mode)
    victim = root / "corpus" / PART / "100" / "1" / "100-1-0001.flac"
    content = victim.read_bytes()
    try:
        victim.write_bytes(content[: len(content) // 2])
        records, summary = run(root, tmp_path / "one", mode)
        with pytest.raises(UserError, match=r"1 of 6 utterances have bad audio so far.*--max-bad 0"):
            run(root, tmp_path / "none", mode, "--max-bad", "0")
        for name in ("100-1-0000", "101-1-0000"):
            (victim.parents[2] / name[:3] / "1" / f"{name}.flac").rename(tmp_path / name)
        with pytest.raises(UserError, match=r"3 of 6 utterances have bad audio, more than --max-bad 1%"):
            run(root, tmp_path / "many", mode)
        assert len((tmp_path / "many" / mode / PART / "bad.tsv").read_text().splitlines()) == 3
    finally:
        victim.write_bytes(content)
        for path in tmp_path.glob("10?-1-0000"):
            path.rename(victim.parents[2] / path.name[:3] / "1" / f"{path.name}.flac")
    assert records == [record for record in whole if record["id"] != "100-1-0001"]
    assert summary["num_utterances"] == 5
    (bad,) = summary["bad_utterances"]
    assert bad[:2] == ["100-1-0001", str(victim)] and "cannot be decoded" in bad[2]


def test_a_recording_that_is_not_finite_is_bad(root: Path, tmp_path: Path) -> None:
    victim = root / "corpus" / PART / "100" / "1" / "100-1-0002.flac"
    content, samples = victim.read_bytes(), soundfile.read(victim, dtype="float32")[0]
    samples[100] = np.nan
    try:
        soundfile.write(victim, samples, 16000, format="WAV", subtype="FLOAT")
        _, summary = run(root, tmp_path, "offline")
    finally:
        victim.write_bytes(content)
    assert summary["bad_utterances"][0][2] == "holds samples that are not finite (nan or infinity)"


def test_a_journal_keeps_whole_units_of_the_same_settings(tmp_path: Path) -> None:
    path, settings = tmp_path / PARTIAL, {"search": "greedy"}
    journal = ShardedJournal(path, settings)
    journal.append(3, ["a", "b"])
    journal.append(0, ["c"])
    own = tmp_path / f"{PARTIAL}-0"
    whole = own.read_bytes()
    for torn in (whole[:-1], whole[:-3]):
        own.write_bytes(torn)
        again = ShardedJournal(path, settings)
        assert again.read() == {3: ["a", "b"]}
        again.append(0, ["c"])
        assert own.read_bytes() == whole
    other = ShardedJournal(path, settings, Ranks(1, 2))
    other.append(1, ["d"])
    other.append(3, [])
    assert other.read(bool) == journal.read(bool) == {0: ["c"], 1: ["d"], 3: ["a", "b"]}
    assert ShardedJournal(path, {"search": "beam"}).read() == {}
    assert ShardedJournal(path, settings).read() == {1: ["d"], 3: []}  # the file of the other one is there
    forget_journal(path)
    assert not list(tmp_path.iterdir())
    own.write_bytes(b"\xff not json")
    assert ShardedJournal(path, settings).read() == {}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "expected RANK, WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "expected RANK, WORLD_SIZE"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "expected RANK, WORLD_SIZE"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "--force: with one process"),
    ],
)
def test_processes_that_cannot_share_are_refused(
    root: Path, tmp_path: Path, variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        run(root, tmp_path, "offline", "--force")
