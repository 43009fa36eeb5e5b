"""What is decoded of a part is kept at once, and a recording that cannot be heard costs itself."""

import json
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
from kdasr.evaluation import part_run
from kdasr.evaluation.evaluate import make_record
from kdasr.evaluation.part_run import PARTIAL, Journal
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
    folder = out / mode / PART
    assert result.exit_code == 0 and not (folder / PARTIAL).exists()
    lines = (folder / "utterances.jsonl").read_text().split("\n")[:-1]
    records = [json.loads(line) for line in lines]
    for record in records:
        for item in (record, *record["tokens"], *record["words"]):
            # A confidence is the same to its rounding only: products of larger batches round differently.
            for name in (*MEASURED, "confidence"):
                item.pop(name, None)
    return records, json.loads((folder / "summary.json").read_text())


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
    whole, _ = run(root, tmp_path / "whole", mode, *options)
    calls = [0]

    def stopping(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] in kept:
            raise KeyboardInterrupt
        return make_record(*arguments)

    monkeypatch.setattr(part_run, "make_record", stopping)
    for count in kept.values():
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run(root, tmp_path / "parts", mode, *options)
        lines = (tmp_path / "parts" / mode / PART / PARTIAL).read_text().split("\n")[1:-1]
        assert sum(len(json.loads(line)) for line in lines) == count
    records, _ = run(root, tmp_path / "parts", mode, *options)
    assert records == whole and len(records) == 6


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


def test_a_journal_keeps_whole_batches_of_the_same_settings(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"search": "greedy"})
    journal.append([{"id": "a"}, {"id": "b"}])
    journal.append([{"id": "c"}])
    whole = journal.path.read_bytes()
    for torn in (whole[:-1], whole[:-3]):
        journal.path.write_bytes(torn)
        again = Journal(tmp_path, {"search": "greedy"})
        assert [record["id"] for record in again.records] == ["a", "b"]
        again.append([{"id": "c"}])
        assert again.path.read_bytes() == whole
    assert Journal(tmp_path, {"search": "beam"}).records == []
    assert Journal(tmp_path, {"search": "greedy"}).records == []
    journal.path.write_bytes(b"\xff not json")
    assert Journal(tmp_path, {"search": "greedy"}).records == []
