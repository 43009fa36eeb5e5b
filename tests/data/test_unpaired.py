"""Speech without transcripts: nothing of them is left, and its batches take their turns."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from kdasr.common.errors import UserError
from kdasr.common.name_digests import name_digest
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data import unpaired
from kdasr.data.batch import Batch
from kdasr.data.cut_table import WORDS, MemoryTable
from kdasr.data.data_config import DataConfig
from kdasr.data.folder import load_cuts
from kdasr.data.index_folder import open_parts
from kdasr.data.loader import TrainLoader
from kdasr.data.pace import Pace
from kdasr.data.table_view import TableView
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.unpaired import (
    InterleavedBatches,
    Transcripts,
    check_all_named,
    digest_of_names,
    no_pieces,
    rows_named,
    sources_print,
    with_texts,
    without_text,
)
from kdasr.data.usable import count_pieces, cut_text
from kdasr.testing import dummy_batch, dummy_cuts, write_corpus


class Numbered:
    """Batches whose first name says which stream and which number."""

    def __init__(self, name: str) -> None:
        self.name, self.number = name, 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = dummy_batch(batch_size=1)
        batch.ids = [f"{self.name}{self.number}"]
        self.number += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def interleaved(ratio: int = 4, accumulate: int = 1) -> InterleavedBatches:
    return InterleavedBatches(Numbered("p"), Numbered("u"), ratio, accumulate)


def take(source: InterleavedBatches, count: int) -> list[str]:
    batches = [next(source) for _ in range(count)]
    assert all(batch.paired == batch.ids[0].startswith("p") for batch in batches)
    return [batch.ids[0] for batch in batches]


def test_one_paired_step_then_the_unpaired_ones() -> None:
    assert take(interleaved(), 7) == ["p0", "u0", "u1", "u2", "u3", "p1", "u4"]
    assert take(interleaved(1, accumulate=2), 6) == ["p0", "p1", "u0", "u1", "p2", "p3"]


def test_a_batch_stays_unpaired_on_its_way_to_a_device() -> None:
    source = interleaved()
    assert [next(source).to("cpu").paired for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("stop", range(7))
def test_the_stream_goes_on_where_it_stood(stop: int) -> None:
    whole, first, second = interleaved(2), interleaved(2), interleaved(2)
    begun = take(first, stop)
    second.load_state_dict(first.state_dict())
    assert begun + take(second, 9 - stop) == take(whole, 9)


def test_a_joint_step_has_an_epoch_of_the_paired_data_and_the_hours_of_both() -> None:
    """A batch of 0.01 h with a transcript and two of 0.02 h without."""
    pace = Pace(100.0, 0.01).interleaved(Pace(300.0, 0.02), 2).of_steps(3)
    assert pace == pytest.approx((100.0, 0.05))


def test_another_rhythm_is_refused() -> None:
    state = interleaved(2).state_dict()
    with pytest.raises(UserError, match="ratio was 2 and is 3 now"):
        interleaved(3).load_state_dict(state)
    with pytest.raises(UserError, match=r"unpaired\.ratio 0"):
        interleaved(0)


def test_no_transcript_reaches_a_batch(tokenizer: Tokenizer) -> None:
    """Neither of cuts that have one nor of cuts without any supervision; the rest of a cut stays."""
    told = list(dummy_cuts(4))
    told[2].supervisions = []
    table = MemoryTable(CutSet.from_cuts(told))
    view = TableView(table, np.array([0, 1, 2], np.int32), without_text, no_pieces(3), WORDS)
    cuts = view.reader.read([0, 1, 2])
    assert [cut.duration for cut in cuts] == [cut.duration for cut in told[:3]]
    assert [cut.supervisions[0].speaker for cut in cuts] == ["dummy", "dummy", None]
    batch = next(TrainLoader(view, tokenizer, DataConfig(num_buckets=1), seed=1))
    assert sorted(batch.ids) == [cut.id for cut in told[:3]]
    assert batch.texts == [""] * 3 and not batch.token_lens_B.any() and batch.tokens_BS.shape == (3, 0)
    assert told[0].supervisions[0].text
    few = view.take(np.array([2, 0], np.int32))
    assert [cut.id for cut in few.reader.read([0, 1])] == [told[2].id, told[0].id]
    assert few.digest() != view.digest() and len(few) == len(few.pieces(tokenizer)) == 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parts of six utterances each, with another order of names in each."""
    root = tmp_path_factory.mktemp("unpaired")
    write_corpus(root / "LibriSpeech", ("train-a", "train-b"))
    for path in sorted((root / "LibriSpeech" / "train-b").rglob("*.trans.txt")):
        path.write_text("".join(f"{line.split()[0]}\n" for line in path.read_text().splitlines()[:2]))
    options = PrepareOptions(root / "LibriSpeech", root / "data", ["train-a", "train-b"], speeds=(1.0, 1.1))
    prepare_corpus(replace(options, on_the_fly=True, keep_empty=True))
    return root / "data"


def test_transcripts_and_texts_are_found_by_name(data: Path, tokenizer: Tokenizer) -> None:
    """Without reading all cuts; also where an earlier version made the index."""
    parts = ["train-a", "train-b"]
    told = {cut.id: cut_text(cut) for part in parts for cut in load_cuts(data, part)}
    rows = np.arange(len(told), dtype=np.int32)
    table = open_parts(data, parts)
    assert table.names().tolist() == [name_digest(cut.id) for cut in table.reader.read(rows.tolist())]
    for part in parts:
        (data / "index" / part / "names.npy").unlink()
    table = open_parts(data, parts)
    transcripts = Transcripts(table, rows, tokenizer)
    assert dict(transcripts) == {name: tokenizer.normalize(text) for name, text in told.items() if text}
    assert 0 < len(transcripts) < len(told)
    assert transcripts.get("nobody") is None
    view = TableView(table, rows, without_text, no_pieces(len(rows)), WORDS)
    texts = {name: f"ONE {name[-1:]}" for name in [*list(told)[3:9], "of another set"]}
    given = with_texts(view, texts)
    cuts = given.reader.read(list(range(len(given))))
    assert {cut.id: cut_text(cut) for cut in cuts} == {name: texts[name] for name in list(told)[3:9]}
    counts = [count_pieces(cut_text(cut), tokenizer) for cut in cuts]
    assert given.pieces(tokenizer).tolist() == counts
    check_all_named(data, told, view)
    with pytest.raises(UserError, match=f"nothing of 6 utterances, such as {cuts[0].id}: other data"):
        check_all_named(data, set(told) - set(texts), view)
    assert rows_named(list(texts), view).tolist() == list(range(3, 9))
    old = "\n".join(cut.id for cut in view.reader.read(rows.tolist()))
    assert digest_of_names(view) == hashlib.sha256(old.encode()).hexdigest()


def test_replaced_audio_of_the_same_length_is_other_audio(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is the same. Of many cuts some are looked at, from all over the view."""
    table = open_parts(data, ["train-a"])
    rows = np.arange(len(table), dtype=np.int32)
    view = TableView(table, rows, without_text, no_pieces(len(rows)), WORDS)
    before = sources_print(view)
    (cut,) = view.reader.read([2])
    path = Path(cut.recording.sources[0].source)
    samples_N, rate = soundfile.read(path)
    os.utime(path, (0, 0))
    assert sources_print(view) == before
    soundfile.write(path, samples_N[::-1], rate)
    changed = sources_print(view)
    assert changed != before
    monkeypatch.setattr(unpaired, "_LOOKED_AT", len(view) // 2)
    few = sources_print(view)
    soundfile.write(path, samples_N, rate)
    assert sources_print(view) != few and sources_print(view.take(rows[:0]))
