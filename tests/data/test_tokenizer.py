"""The tokenizer: ids of the contract, round trips, and what it refuses."""

import copy
import tracemalloc
from pathlib import Path

import pytest
import sentencepiece
from lhotse import SupervisionSegment

from kdasr.common.errors import UserError
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.data import tokens
from kdasr.data.folder import manifest_path, write_manifest
from kdasr.data.tokenizer import Tokenizer, train_tokenizer
from kdasr.data.tokens import adopt_pieces, prepare_tokens
from kdasr.testing import random_text, write_corpus

TEXTS = [random_text(4, seed) for seed in range(50)]


def test_special_ids_are_those_of_sherpa(tokenizer: Tokenizer) -> None:
    assert [tokenizer.piece(index) for index in range(3)] == ["<blk>", "<sos/eos>", "<unk>"]
    assert (tokenizer.blank_id, tokenizer.unk_id, tokenizer.vocab_size) == (0, 2, 24)


def test_text_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert min(ids) > tokenizer.unk_id


def test_decoding_ignores_special_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("SEVEN TEN")
    assert tokenizer.decode([0, *ids[:2], 1, 2, *ids[2:], 0]) == "SEVEN TEN"


def test_empty_text_has_no_pieces(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_an_unknown_character_is_the_unknown_piece(tokenizer: Tokenizer) -> None:
    assert tokenizer.unk_id in tokenizer.encode("SEVEN QUIZ")


def test_the_table_lists_each_piece_and_its_id(tokenizer: Tokenizer) -> None:
    lines = (tokenizer.model_path.parent / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{tokenizer.piece(index)} {index}" for index in range(tokenizer.vocab_size)]


def test_loads_from_folder_and_file_with_one_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    by_folder = Tokenizer.load(tokenizer.model_path.parent)
    other = train_tokenizer(TEXTS, 20, tmp_path)
    assert by_folder.fingerprint == Tokenizer.load(by_folder.model_path).fingerprint == tokenizer.fingerprint
    assert other.fingerprint != tokenizer.fingerprint


def test_training_twice_gives_the_same_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert train_tokenizer(TEXTS, 24, tmp_path).fingerprint == tokenizer.fingerprint


def test_a_copy_for_a_worker_encodes_alike(tokenizer: Tokenizer) -> None:
    assert copy.deepcopy(tokenizer).encode("ONE TWO") == tokenizer.encode("ONE TWO")


def test_too_many_pieces_names_the_largest_size_that_works(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"vocabulary of 500 pieces.*largest size that works is (\d+)"
    ) as error:
        train_tokenizer(TEXTS, 500, tmp_path)
    assert not list(tmp_path.iterdir())
    largest = int(str(error.value).split()[-1])
    assert train_tokenizer(TEXTS, largest, tmp_path).vocab_size == largest


def test_too_few_pieces_names_the_smallest_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"at least (\d+) are needed") as error:
        train_tokenizer(TEXTS, 5, tmp_path)
    smallest = int(str(error.value).split()[-3])
    assert train_tokenizer(TEXTS, smallest, tmp_path).vocab_size == smallest


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no transcripts"):
        train_tokenizer(["", " "], 24, tmp_path)


def test_missing_and_foreign_models_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}.*no tokenizer model"):
        Tokenizer.load(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"not a model at all")
    with pytest.raises(UserError, match=r"bpe\.model: not a SentencePiece model"):
        Tokenizer.load(tmp_path)
    with (tmp_path / "bpe.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(TEXTS), model_writer=file, vocab_size=24, minloglevel=2
        )
    with pytest.raises(UserError, match=r"bpe\.model: pieces 0 to 2"):
        Tokenizer.load(tmp_path)


def test_at_most_makes_fewer_pieces_of_a_small_text(tmp_path: Path) -> None:
    texts = ["ONE TWO THREE", "THREE TWO ONE ONE", "TWO TWO THREE"]
    with pytest.raises(UserError, match="5000"):
        train_tokenizer(texts, 5000, tmp_path / "strict")
    tokenizer = train_tokenizer(texts, 5000, tmp_path / "soft", at_most=True)
    assert 10 < tokenizer.vocab_size < 5000
    assert tokenizer.decode(tokenizer.encode("ONE THREE")) == "ONE THREE"


def test_long_transcripts_count_too(tmp_path: Path) -> None:
    """SentencePiece leaves texts of more than 4,192 bytes out unless it is told not to."""
    texts = ["ONE TWO THREE", "ONE " * 1100 + "XENON"]
    for model_type in ("char", "unigram"):
        tokenizer = train_tokenizer(texts, 12, tmp_path / model_type, at_most=True, model_type=model_type)
        assert tokenizer.unk_id not in tokenizer.encode(texts[1])


def test_a_model_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    """SentencePiece reads a model with a flipped bit, and makes other pieces of it or dies."""
    write_corpus(tmp_path / "corpus")
    prepare_corpus(PrepareOptions(tmp_path / "corpus", tmp_path / "data", ["train-clean-100"], speeds=[1.0]))
    for _ in range(2):  # the second time it is known
        folder = prepare_tokens(tmp_path / "data", 20, at_most=True).model_path.parent
        Tokenizer.load(folder)
    content = bytearray((folder / "bpe.model").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "bpe.model").write_bytes(content)
    with pytest.raises(UserError, match=r"bpe\.model: damaged, or not the model that tokens\.json describes"):
        Tokenizer.load(folder)
    (folder / "tokens.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokens\.json: expected a JSON object"):
        Tokenizer.load(folder)


def test_tokens_hold_no_transcripts_in_memory(tmp_path: Path) -> None:
    """Of 3 MB of text, with characters that the second set of pieces does not know."""
    data = tmp_path / "data"
    prepare_corpus(PrepareOptions(write_corpus(tmp_path / "corpus", ("train",)), data, ["train"]))
    few = prepare_tokens(data, 18).model_path.read_bytes()
    supervisions = (
        SupervisionSegment(str(number), "r", 0.0, 1.0, text=f"{random_text(300, number)} ß")
        for number in range(2000)
    )
    write_manifest(manifest_path(data, "supervisions", "train"), supervisions)
    (tmp_path / "own.model").write_bytes(few)
    for make in (lambda: prepare_tokens(data, 24), lambda: adopt_pieces(data, tmp_path / "own.model")):
        tracemalloc.start()
        make()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.5e6


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        ("Nº 1", "No 1", "'Nº 1' as 'No 1'"),
        ("A" * 99, "a" * 99, f"'{'A' * 60}...' as '{'a' * 60}...'"),
        ("a" * 99 + "B", "a" * 99 + "b", f"'...{'a' * 20}B' as '...{'a' * 20}b'"),
    ],
)
def test_a_changed_transcript_is_shown_where_it_changes(before: str, after: str, shown: str) -> None:
    assert tokens._change(before, after) == shown
