"""A manifest whose cuts cannot be cut from their recordings is refused, and says which one and why."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lhotse import CutSet

from kdasr.common.errors import UserError
from kdasr.corpora.librispeech_alignments import read_alignments
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.folder import cuts_path, load_cuts
from kdasr.testing import write_corpus

PART = "train-clean-100"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuts")
    corpus = write_corpus(folder / "corpus", (PART,), speakers=1, alignments_dir=folder / "alignments")
    options = PrepareOptions(corpus, folder / "data", [PART], folder / "alignments", speeds=(0.9, 1.0))
    prepare_corpus(options)
    return folder / "data"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def test_what_prepare_writes_passes(data: Path) -> None:
    assert len(load_cuts(data, PART)) == 6


def at(*path: str | int) -> Callable[[dict, Any], None]:
    """Sets the value at a place of a cut."""

    def change(cut: dict, value: Any) -> None:
        *outer, last = path
        for name in outer:
            cut = cut[name]  # type: ignore[index]
        cut[last] = value  # type: ignore[index]

    return change


@pytest.mark.parametrize(
    ("place", "values"),
    [
        (at("start"), (-0.5, math.nan, math.inf, 1e30, "x", None, True)),
        (at("duration"), (-1.0, 0, math.nan, math.inf, 1e308, "x")),
        (at("recording", "sampling_rate"), (0, -1, 8000, 2**40, 0.5, "x")),
        (at("recording", "num_samples"), (0, -1, 10, 10**20, math.nan, None)),
        (at("recording", "duration"), (0.01, 1e30, math.nan, "x")),
        (at("recording", "sources"), ([], None, 3)),
        (at("recording", "sources", 0, "source"), (None, 3, [])),
        (at("recording", "sources", 0, "type"), ("command",)),  # Lhotse would run it
        (at("supervisions", 0, "id"), (3, None)),
        (at("supervisions", 0, "start"), ("x", None, math.nan)),
        (at("supervisions", 0, "duration"), ("x", None, math.inf)),
        (at("supervisions", 0, "text"), (3, [], {"a": 1}, "half of an emoji: \ud83d")),
        (at("supervisions", 0, "speaker"), ("\ud83d",)),
        (at("supervisions", 0, "alignment"), (3, {"word": [["ONE", "x", 1.0]]}, {"word": 3})),
        (at("channel"), (7, "x", None)),
        (at("recording", "channel_ids"), (True, 0.5, [], [7], "x")),
        (at("id"), (3, None, [])),
        (at("recording"), (None,)),
        (at("features", "storage_path"), (None, 3, [])),
        (at("features", "storage_type"), ("memory_raw",)),  # Lhotse would unpickle it
    ],
)
def test_what_cannot_be_true_is_named(data: Path, place: Callable, values: tuple) -> None:
    path = cuts_path(data, PART)
    content = path.read_bytes()
    try:
        for value in values:
            rows = rows_of(path)
            place(rows[1], value)
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
            with pytest.raises(UserError, match=r"cuts_train-clean-100\.jsonl\.gz: ") as caught:
                load_cuts(data, PART)
            assert "\n" not in str(caught.value), value
            path.write_bytes(content)
    finally:
        path.write_bytes(content)


def test_an_id_that_is_there_twice_is_named(data: Path) -> None:
    path = cuts_path(data, PART)
    content = path.read_bytes()
    try:
        path.write_bytes(content + content)
        with pytest.raises(UserError, match=r"cut '100-1-.*its id is there twice"):
            load_cuts(data, PART)
        path.write_bytes(content[:-9])
        with pytest.raises(UserError, match="damaged"):
            load_cuts(data, PART)
    finally:
        path.write_bytes(content)


def test_no_more_cuts_are_read_than_are_wanted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cuts_path(data, PART)
    content, ids = path.read_bytes(), [row["id"] for row in rows_of(path)]
    try:
        path.write_bytes(content + gzip.compress(b"no cut\n"))
        monkeypatch.setattr(CutSet, "from_dicts", None)  # all of them in memory
        assert [cut.id for cut in load_cuts(data, PART, 2)] == ids[:2]
        assert Path(next(iter(load_cuts(data, PART, 1))).recording.sources[0].source).is_file()
        with pytest.raises(UserError, match="damaged"):
            load_cuts(data, PART, len(ids) + 1)
    finally:
        path.write_bytes(content)


def test_a_damaged_record_is_named(data: Path) -> None:
    record = data / "prepare.json"
    content = record.read_bytes()
    try:
        other = [b"[]", b"5", b'{"version": 1}', b'{"version": 1, "parts": {"train-clean-100": 5}}']
        for damaged in (b"", content[:-5], b"\xff", *other):
            record.write_bytes(damaged)
            with pytest.raises(UserError, match=r"prepare\.json: .*: move it and the parts .* away, and run"):
                load_cuts(data, PART)
    finally:
        record.write_bytes(content)


def test_a_manifest_that_was_changed_is_used_and_named(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cuts_path(data, PART)
    content = path.read_bytes()
    try:
        load_cuts(data, PART)
        assert not caplog.records
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows_of(path)[1:]).encode()))
        assert len(load_cuts(data, PART)) == 5
        assert "cuts_train-clean-100.jsonl.gz: not as `kdasr prepare` left it" in caplog.text
    finally:
        path.write_bytes(content)


def test_two_alignments_of_one_utterance_have_to_be_the_same(tmp_path: Path) -> None:
    """Which of them is right, nobody can know."""
    file = tmp_path / "1-1.alignment.txt"
    line = '1-1-0000 ",ONE," "0.5,1.0,1.5"\n'
    file.write_text(line + line)
    assert [item.symbol for item in read_alignments(file)["1-1-0000"]] == ["", "ONE", ""]
    file.write_text(line + line.replace("1.0", "1.2"))
    with pytest.raises(UserError, match=r"alignment\.txt, line 2: .*'1-1-0000' is there twice"):
        read_alignments(file)
