"""Text for language models: what is read, what is left out, and batches that are exactly resumable."""

import gzip
import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer
from kdasr.language_model import loader as loading
from kdasr.language_model import text, text_store
from kdasr.language_model.loader import TextBatch, TextLoader, valid_text_batches
from kdasr.language_model.text import EncodedText, TextSource, read_lines, text_sources
from kdasr.language_model.text_store import stored_text
from kdasr.testing import random_text

SENTENCES = [random_text(1 + index % 7, index) for index in range(60)]


def encoded(tokenizer: Tokenizer, lines: list[str], max_pieces: int = 100) -> EncodedText:
    return EncodedText([TextSource("some.txt", lines)], tokenizer, max_pieces)


def test_lines_of_plain_and_gzipped_files_are_the_same(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lines = [*SENTENCES, "ONE\x0bTWO\x0cTHREE\u2028FOUR\rFIVE"]
    content = "\n".join(lines)
    (tmp_path / "a.txt").write_text(content)
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write(content)
    plain, packed = (
        EncodedText(text_sources([str(tmp_path / name)]), tokenizer, 100) for name in ("a.txt", "a.txt.gz")
    )
    assert len(plain) == len(packed) == 61
    for index, sentence in enumerate(lines):
        assert plain.pieces(index).tolist() == packed.pieces(index).tolist() == tokenizer.encode(sentence)
    assert plain.num_words_N.tolist() == [len(sentence.split()) for sentence in lines]


def test_unusable_lines_are_counted_and_named(tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["ONE", "", "TWO ÉÉ", "  \n", "THREE " * 200, "FOUR\n", "ONE <blk> TWO"]
    with caplog.at_level(logging.WARNING):
        text = encoded(tokenizer, lines)
    assert [tokenizer.decode(text.pieces(index)) for index in range(len(text))] == ["ONE", "FOUR"]
    assert [text.origin(index) for index in range(2)] == ["some.txt:1", "some.txt:6"]
    said = caplog.text
    assert "2 of 7 lines left out, empty: some.txt:2, some.txt:4" in said
    assert "1 of 7 lines left out, longer than 100 pieces: some.txt:5" in said
    assert "2 of 7 lines left out, special symbols, or characters unknown" in said
    assert "some.txt:3, some.txt:7" in said


def test_origins_name_the_file_among_several(tokenizer: Tokenizer) -> None:
    sources = [TextSource("a", ["ONE", ""]), TextSource("b", []), TextSource("c", ["", "TWO", "SIX"])]
    text = EncodedText(sources, tokenizer, 100)
    assert [text.origin(index) for index in range(3)] == ["a:1", "c:2", "c:3"]


@pytest.mark.parametrize("lines", [[], ["", " "], ["ÀÉ"]])
def test_text_without_a_sentence_is_refused(tokenizer: Tokenizer, lines: list[str]) -> None:
    with pytest.raises(UserError, match=r"some\.txt: no usable sentence"):
        encoded(tokenizer, lines)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"ONE\n" * 999)[:20])
    (tmp_path / "plain.gz").write_bytes(b"ONE\n")
    flipped = bytearray(gzip.compress(b"ONE\n" * 999))
    flipped[10] ^= 0xFF  # the first byte after the header
    (tmp_path / "flipped.gz").write_bytes(flipped)
    for name, reason in (
        ("none.txt", "no such"),
        ("latin.txt", "not UTF-8"),
        ("cut.txt.gz", "damaged"),
        ("plain.gz", "damaged"),
        ("flipped.gz", "damaged"),
    ):
        with pytest.raises(UserError, match=rf"{name}: {reason}"):
            list(read_lines(tmp_path / name))


def test_text_in_files_is_the_text_in_memory(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written a few pieces at a time, from a plain and a packed file; the second time nothing is encoded."""
    (tmp_path / "a.txt").write_text("\n".join([*SENTENCES[:30], "", "ÉÉ"]))
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("\n".join(SENTENCES[30:]))
    paths = [str(tmp_path / name) for name in ("a.txt", "b.txt.gz")]
    held = EncodedText(text_sources(paths), tokenizer, 100)
    monkeypatch.setattr(text, "AT_ONCE", 7)
    stored = stored_text(paths, tokenizer, 100, tmp_path / "text")
    monkeypatch.setattr(text_store, "encode_sources", lambda *_: pytest.fail("encoded again"))
    again = stored_text(paths, tokenizer, 100, tmp_path / "text")
    for other in (stored, again):
        assert len(other) == len(held) == 60 and other.num_pieces == held.num_pieces
        assert other.description() == held.description()
        for index in range(60):
            assert other.pieces(index).tolist() == held.pieces(index).tolist()
            assert other.origin(index) == held.origin(index)
        pairs = zip(
            one_epoch(TextLoader(held, 90, seed=3)), one_epoch(TextLoader(other, 90, seed=3)), strict=True
        )
        assert all(torch.equal(one.tokens_BS, same.tokens_BS) and one.ids == same.ids for one, same in pairs)


def test_text_in_files_is_made_again_where_it_is_another_or_damaged(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    path, folder = tmp_path / "a.txt", tmp_path / "text"
    path.write_text("ONE TWO\nTHREE\n")
    assert len(stored_text([str(path)], tokenizer, 100, folder)) == 2
    made = next(file for file in folder.rglob("pieces_P.*"))
    made.write_bytes(made.read_bytes()[:-2])
    assert len(stored_text([str(path)], tokenizer, 100, folder)) == 2
    path.write_text("ONE TWO\nTHREE\nSIX\n")
    assert len(stored_text([str(path)], tokenizer, 100, folder)) == 3
    with pytest.raises(UserError, match=r"none\.txt: no such text file"):
        stored_text([str(tmp_path / "none.txt")], tokenizer, 100, folder)


def test_batches_of_a_window_at_a_time_hold_every_sentence_once(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "POOL", 8)
    monkeypatch.setattr(loading, "WINDOW", 16)
    some = encoded(tokenizer, SENTENCES)
    batches = one_epoch(TextLoader(some, 90, seed=3))
    assert sorted(name for batch in batches for name in batch.ids) == sorted(map(some.origin, range(60)))
    early = {name for batch in batches[: len(batches) // 4] for name in batch.ids}
    order = np.random.default_rng([3, 0]).permutation(60)[:16]
    assert early <= {some.origin(index) for index in order}


def test_a_text_of_one_window_has_the_order_of_earlier_versions(tokenizer: Tokenizer) -> None:
    """All batches shuffled at once, each filled one sentence at a time: so earlier runs go on."""
    some = encoded(tokenizer, SENTENCES)
    generator = np.random.default_rng([3, 0])
    order = generator.permutation(60)
    groups: list[list[int]] = []
    for index in order[np.argsort(some.lens_N[order], kind="stable")].tolist():
        if groups and (len(groups[-1]) + 1) * (some.lens_N[index] + 1) <= 90:
            groups[-1].append(index)
        else:
            groups.append([index])
    generator.shuffle(groups)
    found = [batch.ids for batch in one_epoch(TextLoader(some, 90, seed=3))]
    assert found == [[some.origin(index) for index in group] for group in groups]


def sentences_of(batch: TextBatch) -> list[tuple[int, ...]]:
    rows = zip(batch.tokens_BS, batch.token_lens_B, strict=True)
    return [tuple(row[:length].tolist()) for row, length in rows]


def one_epoch(loader: TextLoader) -> list[TextBatch]:
    batches = [next(loader)]
    while True:
        batch = next(loader)
        if loader.epoch:
            return batches
        batches.append(batch)


def test_an_epoch_holds_every_sentence_once_within_the_limit(tokenizer: Tokenizer) -> None:
    text = encoded(tokenizer, SENTENCES)
    expected = sorted(tuple(tokenizer.encode(sentence)) for sentence in SENTENCES)
    loaded = one_epoch(TextLoader(text, 90, seed=3))
    for batches in (loaded, valid_text_batches(text, 90)):
        assert sorted(row for batch in batches for row in sentences_of(batch)) == expected
        assert all((batch.tokens_BS.shape[1] + 1) * len(batch) <= 90 for batch in batches)
        assert sum(batch.num_words for batch in batches) == sum(len(s.split()) for s in SENTENCES)
        assert sum(batch.num_predictions for batch in batches) == sum(len(row) + 1 for row in expected)
    again = one_epoch(TextLoader(text, 90, seed=3))
    other = one_epoch(TextLoader(text, 90, seed=4))
    assert [batch.ids for batch in loaded] == [batch.ids for batch in again] != [b.ids for b in other]


def test_a_sentence_above_the_limit_is_a_batch_of_its_own(tokenizer: Tokenizer) -> None:
    text = encoded(tokenizer, SENTENCES)
    assert all(len(batch) == 1 for batch in one_epoch(TextLoader(text, 1, seed=0)))


def test_processes_share_an_epoch_out_evenly(tokenizer: Tokenizer) -> None:
    text = encoded(tokenizer, SENTENCES)
    parts = [one_epoch(TextLoader(text, 90, seed=3, rank=rank, world_size=2)) for rank in range(2)]
    ids = [{name for batch in part for name in batch.ids} for part in parts]
    assert len(parts[0]) == len(parts[1]) > 3 and not ids[0] & ids[1]
    with pytest.raises(UserError, match="too little text for 99"):
        TextLoader(text, 90, seed=3, world_size=99)


@pytest.mark.parametrize("taken", [0, 3, 11, 30])
def test_a_resumed_stream_goes_on_with_the_same_batches(tokenizer: Tokenizer, taken: int) -> None:
    text = encoded(tokenizer, SENTENCES)
    whole = TextLoader(text, 90, seed=3)
    for _ in range(taken):
        next(whole)
    resumed = TextLoader(text, 90, seed=3)
    resumed.load_state_dict(whole.state_dict())
    for one, other in islice(zip(whole, resumed, strict=False), 20):
        assert one.ids == other.ids and torch.equal(one.tokens_BS, other.tokens_BS)


def test_other_text_or_settings_cannot_be_resumed(tokenizer: Tokenizer) -> None:
    state = TextLoader(encoded(tokenizer, SENTENCES), 90, seed=3).state_dict()
    for loader, name in (
        (TextLoader(encoded(tokenizer, SENTENCES[1:]), 90, seed=3), "num_sentences"),
        (TextLoader(encoded(tokenizer, [*SENTENCES[1:], "ONE SIX TEN"]), 90, seed=3), "num_pieces"),
        (TextLoader(encoded(tokenizer, SENTENCES), 91, seed=3), "batch_pieces"),
        (TextLoader(encoded(tokenizer, SENTENCES), 90, seed=2), "seed"),
    ):
        with pytest.raises(UserError, match=f"cannot resume the data stream: {name}"):
            loader.load_state_dict(state)
