"""What is trained on and what is scored are one spelling: that of the pieces."""

import io
import pickle
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from kdasr.data.text_normalization import TextNormalizer, split_words
from kdasr.data.tokenizer import BLANK, SOS_EOS, Tokenizer, train_tokenizer
from kdasr.export.runtime import PieceTable
from kdasr.language_model.text import EncodedText, TextSource
from kdasr.recognition.result import join_words

ALPHABET = "AbeC1.\u0301\uff21\uff11º…ﬁßıİÉ中。\u200b\u00a0\u3000\u0085\u2028\x0b\x0c\t\u00ad\ufeff\u2581 "
"""Letters, and what normalization turns into others, drops, or takes for a space."""


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer whose transcripts have every character of `ALPHABET`, several of them beside each other."""
    texts = [f"{first}{second} {second}" for first in ALPHABET for second in ALPHABET]
    return train_tokenizer(texts, 300, tmp_path_factory.mktemp("odd"), at_most=True)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("CAFE\u0301", "CAFÉ"),
        ("\uff11\uff12", "12"),
        ("Nº 5", "No 5"),
        ("so…", "so..."),
        ("ﬁn", "fin"),
        ("a\u200bb", "a b"),
        ("a\u0085b", "a b"),
        ("a\u2028b\x0bc\x0cd", "a b c d"),
        ("  a \t b ", "a b"),
        ("Straße ılık İ", "Straße ılık İ"),
        ("\u200b", ""),
        ("", ""),
    ],
)
def test_known_spellings(tokenizer: Tokenizer, text: str, spelled: str) -> None:
    assert tokenizer.normalization == "nmt_nfkc"
    for normalize in (tokenizer.normalize, TextNormalizer(), pickle.loads(pickle.dumps(TextNormalizer()))):
        assert normalize(text) == spelled


@settings(max_examples=300, deadline=None)
@given(st.text(ALPHABET, max_size=12))
def test_a_normalized_text_is_what_its_pieces_spell(odd: Tokenizer, text: str) -> None:
    ids = odd.encode(text)
    assert odd.unk_id not in ids
    assert join_words([odd.piece(index) for index in ids]) == odd.normalize(text)
    assert split_words(odd.decode(ids)) == split_words(odd.normalize(text))
    assert odd.normalize(text) == " ".join(split_words(odd.normalize(text)))


def test_bytes_are_put_together_to_letters() -> None:
    """As SentencePiece does it, with a model such as icefall's for Chinese and English."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["HELLO WORLD", "LOW OWL"]), model_writer=trained, vocab_size=300,
        hard_vocab_limit=False, byte_fallback=True, user_defined_symbols=[BLANK, SOS_EOS], unk_id=2,
        bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    spoken = Tokenizer(trained.getvalue(), Path("bpe.model"))
    ids = spoken.encode("HELLO \u4f60\u597dLOW W\u00c0")
    pieces = [spoken.piece(index) for index in ids]
    assert sum(piece.startswith("<0x") for piece in pieces) == 8
    assert join_words(pieces) == spoken.decode(ids) == "HELLO \u4f60\u597dLOW W\u00c0"
    assert PieceTable(pieces).decode(range(len(pieces))) == spoken.decode(ids)
    assert join_words(pieces[:-1]) == spoken.decode(ids[:-2])  # nothing is shown of half a letter ...
    assert (
        join_words([*pieces[:-1], "\u2581L"]) == spoken.decode(ids[:-2]) + "\ufffd L"
    )  # unless it stays one


def test_no_piece_holds_white_space(odd: Tokenizer) -> None:
    lines = (odd.model_path.parent / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == odd.vocab_size
    assert not any(char.isspace() for index in range(odd.vocab_size) for char in odd.piece(index))


@pytest.mark.parametrize(
    ("rule", "spelled"), [("identity", "CAFE\u0301 \uff11"), ("nmt_nfkc_cf", "café 1"), ("nfkc", "CAFÉ 1")]
)
def test_a_models_own_rule_is_used(tmp_path: Path, rule: str, spelled: str) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["CAFE ONE"] * 9),
        model_writer=model,
        vocab_size=16,
        hard_vocab_limit=False,
        normalization_rule_name=rule,
        user_defined_symbols=["<blk>", "<sos/eos>"],
        unk_id=2,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    tokenizer = Tokenizer(model.getvalue(), tmp_path)
    assert tokenizer.normalization == rule
    assert tokenizer.normalize("CAFE\u0301\u3000\uff11") == spelled
    assert TextNormalizer(rule=rule)("CAFE\u0301\u3000\uff11") == spelled


def test_words_of_text_are_counted_in_that_spelling(tokenizer: Tokenizer) -> None:
    text = EncodedText([TextSource("a.txt", ["ONE\u200bTWO\u0085SIX"])], tokenizer, 100)
    assert text.num_words_N.tolist() == [3]
    assert tokenizer.decode(text.pieces(0).tolist()) == "ONE TWO SIX"
