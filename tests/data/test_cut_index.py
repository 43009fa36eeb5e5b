"""The index of a part: its rows are the manifest's cuts, whoever wrote that, and it is never out of date."""

import gzip
import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet

from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data.blocks import LINES, BlockReader, find_blocks, write_blocks
from kdasr.data.cut_table import STORED, WORDS, MemoryTable
from kdasr.data.data_config import DataConfig
from kdasr.data.folder import cuts_path, load_cuts
from kdasr.data.index_folder import open_part, open_parts
from kdasr.data.loader import TrainLoader
from kdasr.data.same_data import describe_cuts
from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import write_corpus

PARTS = ["train-clean-100", "train-other-500"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training parts of 18 and 12 cuts at three and two speeds, the first with word times."""
    root = tmp_path_factory.mktemp("index")
    corpus = write_corpus(root / "corpus", PARTS, alignments_dir=root / "alignments")
    for part, speeds in zip(PARTS, ((0.9, 1.0, 1.1), (0.9, 1.0)), strict=True):
        prepare_corpus(
            PrepareOptions(
                corpus,
                root / "data",
                [part],
                root / "alignments" if part == PARTS[0] else None,
                speeds=speeds,
            )
        )
    return root / "data"


@pytest.fixture
def data(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "data")
    return tmp_path / "data"


def eager(data: Path) -> CutSet:
    return CutSet.from_cuts(cut for part in PARTS for cut in load_cuts(data, part))


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    """Write a manifest as other programs do: as one gzip member."""
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    path.write_bytes(gzip.compress("".join(line + "\n" for line in change(lines)).encode()))


@pytest.mark.parametrize("in_blocks", [True, False])
def test_rows_are_the_cuts_of_the_manifests(
    data: Path, tokenizer: Tokenizer, in_blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if not in_blocks:  # as earlier versions wrote them, without an index
        shutil.rmtree(data / "index")
        for part in PARTS:
            rewrite(cuts_path(data, part), lambda lines: lines)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        cuts, table = list(eager(data)), open_parts(data, PARTS)
    assert ("copied in blocks" in caplog.text) == (not in_blocks)
    assert len(table) == len(cuts) == 30
    rows = [29, 3, 17, 18, 0, 3]
    read = pickle.loads(pickle.dumps(table.reader)).read(rows)  # noqa: S301: as it is sent to workers
    assert [cut.to_dict() for cut in read] == [cuts[row].to_dict() for row in rows]
    memory = MemoryTable(eager(data))
    for ours, theirs in zip(table.columns, memory.columns, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert table.columns.flags_N.tolist() == [STORED | WORDS] * 18 + [STORED] * 12
    np.testing.assert_array_equal(table.pieces(tokenizer), memory.pieces(tokenizer))
    np.testing.assert_array_equal(open_parts(data, PARTS).pieces(tokenizer), memory.pieces(tokenizer))
    one = describe_cuts(load_cuts(data, PARTS[0]), data)
    assert describe_cuts(open_parts(data, PARTS[:1]), data) == one


def test_training_hears_the_same_from_the_index_as_from_memory(data: Path, tokenizer: Tokenizer) -> None:
    config = DataConfig(max_duration=9.0, num_buckets=2)
    lazy = TrainLoader(open_parts(data, PARTS), tokenizer, config, seed=3)
    held = TrainLoader(eager(data), tokenizer, config, seed=3)
    for _ in range(8):
        one, other = next(lazy), next(held)
        assert one.ids == other.ids and one.texts == other.texts
        assert one.features_BTF.equal(other.features_BTF)


def test_an_index_of_another_manifest_is_made_again(
    data: Path, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    part = PARTS[0]
    before = read_json(data / "index" / part / "index.json")
    open_part(data, part).pieces(tokenizer)
    rewrite(cuts_path(data, part), lambda lines: lines[:-1])
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        index = open_part(data, part)
    assert len(index) == 17 and len(index.pieces(tokenizer)) == 17
    assert "not as `kdasr prepare` left it" in caplog.text
    assert index.meta != before and open_part(data, part).meta == index.meta
    assert not [path for path in (data / "index").rglob("*") if "partial" in path.name]


def test_a_copied_folder_keeps_its_index(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(data, tmp_path / "moved")
    monkeypatch.setattr("kdasr.data.index_folder._make", lambda *_: pytest.fail("made again"))
    (cut,) = open_part(tmp_path / "moved", PARTS[0]).reader.read([5])
    assert len(cut.load_features()) == cut.num_frames


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(data / "index")
    (data / "index").write_text("in the way")
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        assert len(open_part(data, PARTS[1])) == 12
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "no utterances"),
        (lambda lines: [*lines, lines[2]], r"cut '.*_sp.*|cut '.*': its id is there twice"),
        (lambda lines: [lines[0], "{"], "damaged"),
        (lambda lines: [lines[0], json.dumps({"id": "x", "type": "PaddingCut"})], "damaged|holds a"),
        (lambda lines: [lines[0].replace('"duration": ', '"duration": -')], "duration is -"),
    ],
)
def test_what_cannot_be_trained_on_is_named(
    data: Path, change: Callable[[list[str]], list[str]], said: str
) -> None:
    rewrite(cuts_path(data, PARTS[0]), change)
    with pytest.raises(UserError, match=rf"cuts_{PARTS[0]}\.jsonl\.gz: .*({said})"):
        open_part(data, PARTS[0])


def test_a_file_in_blocks_is_a_gzip_file_of_which_single_lines_are_read(tmp_path: Path) -> None:
    path, offsets = tmp_path / "x.jsonl.gz", tmp_path / "blocks.npy"
    lines = [f"line {number} é\r\u2028\n".encode() for number in range(2 * LINES + 3)]
    with path.open("wb") as file:
        write_blocks(file, lines)
    with gzip.open(path) as file:
        assert file.read() == b"".join(lines)
    blocks = find_blocks(path)
    assert blocks is not None and len(blocks) == 4
    np.save(offsets, blocks)
    reader = BlockReader(path, offsets)
    bare = [line[:-1] for line in lines]
    assert [reader.line(number) for number in range(len(lines))] == bare == list(reader.lines())
    path.write_bytes(path.read_bytes()[:-1])
    assert find_blocks(path) is None  # a file that was cut off
    whole = tmp_path / "other.gz"
    whole.write_bytes(gzip.compress(b"".join(lines)))
    assert find_blocks(whole) is None
    damaged = bytearray(path.read_bytes())
    damaged[40] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"x\.jsonl\.gz: damaged"):
        BlockReader(path, offsets).line(0)
