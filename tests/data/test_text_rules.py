"""Rules by which text is written: known spellings, and laws that the tokenizer relies on."""

import io
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from kdasr.common.errors import UserError
from kdasr.data.text_normalization import TextNormalizer
from kdasr.data.text_rules import known_rules, register_rule, rule_named
from kdasr.data.token_table import read_model
from kdasr.data.tokenizer import Tokenizer, copy_tokenizer, train_tokenizer
from kdasr.export.runtime import PieceTable
from kdasr.recognition.result import join_words

ALPHABET = "aBß'’ʼ\uff07İΣς.-,!?$€%«»“ 9\u0301\u200bﬁ…はन्ा\u2581\n\u00ad\u200d\u200f\ufe0f\u20e3"


@pytest.mark.parametrize(
    ("rule", "text", "written"),
    [
        ("none", "Don’t, STOP", "Don’t, STOP"),
        ("upper", "Straße, ok", "STRASSE, OK"),
        ("lower", "Straße, ΣΟΦΌΣ", "straße, σοφόσ"),
        ("words", "“Don’t—stop!” he said.", "don't stop he said"),
        ("words", "rock 'n' roll, dogs' bones, O'Neill", "rock n roll dogs bones o'neill"),
        ("words", "well-known U.S. ... $5", "well known u s 5"),
        ("words", "ＣＡＦＥ\u0301 Nº １", "café no 1"),
        ("words", "नमस्ते, दुनिया!", "नमस्ते दुनिया"),
        ("words", "你好，世界。", "你好 世界"),
        ("words", "'' - '", ""),
        ("words", "I \u2764\ufe0f you\u2764\ufe0ftoo 1\ufe0f\u20e3", "i you too 1"),
        ("words", "\U0001f468\u200d\U0001f469 co\u00adop \u2067\u0645\u0646\u2069", "coop \u0645\u0646"),
        ("words", "\u0645\u06cc\u200c\u0631", "\u0645\u06cc\u200c\u0631"),
        ("upper-words", "“Don’t—stop!” he said.", "DON'T STOP HE SAID"),
    ],
)
def test_known_spellings(rule: str, text: str, written: str) -> None:
    assert rule_named(rule)(text) == written


@settings(max_examples=200, deadline=None)
@given(st.text(ALPHABET, max_size=12), st.sampled_from(["none", "upper", "lower", "words", "upper-words"]))
def test_a_rule_treats_a_word_alike_alone_and_among_others(text: str, name: str) -> None:
    rule = rule_named(name)
    assert rule(rule(text)) == rule(text)
    assert rule(text).split() == " ".join(rule(word) for word in text.split()).split()
    if name == "words":
        left = set(rule(text)) - {"'", " "}
        assert not any(unicodedata.category(char)[0] in "PS" or char.isupper() for char in left)


def test_rules_are_known_by_name() -> None:
    assert known_rules() == ["none", "upper", "lower", "words", "upper-words"]
    with pytest.raises(UserError, match="x: no rule 'title' to normalize text by; known: none, upper"):
        rule_named("title", "x")
    with pytest.raises(ValueError, match="'words'"):
        register_rule("words")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Characters, of text in words."""
    texts = ["Don't stop, Anna!", "STOP: it's a cat.", "Ça va?"]
    folder = tmp_path_factory.mktemp("pieces")
    return train_tokenizer(texts, 0, folder, model_type="char", normalize="words")


def test_what_is_trained_on_and_what_is_scored_are_one_spelling(spoken: Tokenizer) -> None:
    ids = spoken.encode("“STOP”, Anna — don’t!")
    assert spoken.unk_id not in ids
    assert spoken.decode(ids) == spoken.normalize("“STOP”, Anna — don’t!") == "stop anna don't"
    assert join_words([spoken.piece(index) for index in ids]) == "stop anna don't"
    assert spoken.normalization == "words, nmt_nfkc"
    pieces = {spoken.piece(index) for index in range(3, spoken.vocab_size)}
    assert pieces == set("▁donts'aipcvç")


def test_the_rule_is_part_of_a_tokenizer(spoken: Tokenizer, tmp_path: Path) -> None:
    again = Tokenizer.load(spoken.model_path.parent)
    assert (again.rule, again.fingerprint) == ("words", spoken.fingerprint)
    assert Tokenizer(spoken.model_path.read_bytes(), spoken.model_path).fingerprint != spoken.fingerprint
    copy_tokenizer(spoken, tmp_path)
    for name in ("bpe.model", "tokens.txt", "text.json"):
        assert (tmp_path / name).read_bytes() == (spoken.model_path.parent / name).read_bytes()
    train_tokenizer(["one two"], 0, tmp_path, model_type="char")
    assert Tokenizer.load(tmp_path).rule == "none" and not (tmp_path / "text.json").exists()
    (tmp_path / "text.json").write_text("[]")
    with pytest.raises(UserError, match=r"text\.json: damaged"):
        Tokenizer.load(tmp_path)
    (tmp_path / "text.json").write_text('{"normalize": "shouted"}')
    with pytest.raises(UserError, match=r"text\.json: no rule 'shouted'"):
        Tokenizer.load(tmp_path)
    assert TextNormalizer(written="upper")("ﬁn") == "FIN"


def test_an_export_knows_the_rule(spoken: Tokenizer) -> None:
    pieces = PieceTable(["<blk>"], spoken.normalization, spoken.rule)
    assert (pieces.normalization, pieces.rule) == (spoken.normalization, "words")
    assert pieces.normalize("“ﬁn”, Don’t!") == spoken.normalize("“ﬁn”, Don’t!") == "fin don't"
    with pytest.raises(UserError, match="no rule 'shouted'"):
        PieceTable(["<blk>"], "shouted, nmt_nfkc", "shouted")


def table(path: Path, *pieces: str) -> Path:
    path.write_text("".join(f"{piece} {index}\n" for index, piece in enumerate(pieces)), encoding="utf-8")
    return path


SPECIAL = ("<blk>", "<sos/eos>", "<unk>")


@pytest.mark.parametrize("word_start", [True, False])
def test_a_table_of_characters_becomes_a_model(tmp_path: Path, word_start: bool) -> None:
    mark = ["▁"] if word_start else []
    source = table(tmp_path / "tokens.txt", *SPECIAL, *mark, "好", "你", "a", "#0", "#1")
    tokenizer = Tokenizer(read_model(source), source)
    assert tokenizer.vocab_size == 6 + word_start
    ids = tokenizer.encode("你好")
    assert [tokenizer.piece(index) for index in ids] == [*mark, "你", "好"]
    assert ids[-1] == 3 + word_start and tokenizer.decode(ids) == "你好"
    assert tokenizer.unk_id in tokenizer.encode("b") and tokenizer.normalize("ａ") == "a"


def test_the_same_model_is_adopted_as_it_is(spoken: Tokenizer, tmp_path: Path) -> None:
    assert read_model(spoken.model_path) == read_model(spoken.model_path.parent)
    assert read_model(spoken.model_path) == spoken.model_path.read_bytes()
    rebuilt = Tokenizer(read_model(spoken.model_path.with_name("tokens.txt")), tmp_path / "x", "words")
    assert rebuilt.encode("Don't stop") == spoken.encode("Don't stop")


def sentencepiece_model(path: Path, **options: object) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["one two three"] * 9), model_writer=model, vocab_size=16,
        hard_vocab_limit=False, minloglevel=2, **options,
    )  # fmt: skip
    path.write_bytes(model.getvalue())
    return path


def test_pieces_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "odd.txt").write_text("<blk>\n<sos/eos>\n")
    (tmp_path / "junk.model").write_bytes(b"junk")
    special = {"user_defined_symbols": ["<blk>", "<sos/eos>"], "bos_id": -1, "eos_id": -1}
    for source, message in [
        (tmp_path / "none.model", "no such file: expected a SentencePiece model or a tokens.txt"),
        (tmp_path / "junk.model", "not a SentencePiece model"),
        (sentencepiece_model(tmp_path / "plain.model"), r"pieces 0 to 2 are \['<unk>', '<s>', '</s>'\], exp"),
        (
            sentencepiece_model(tmp_path / "first.model", unk_id=0, **special),
            r"pieces 0 to 2 are \['<unk>', '<b",
        ),
        (tmp_path / "odd.txt", "expected a piece and its id in each line"),
        (table(tmp_path / "no.txt", "a", "b"), r"pieces 0 to 2 are \['a', 'b'\].*: the blank has id 0"),
        (
            table(tmp_path / "long.txt", *SPECIAL, "▁the", "a"),
            "1 pieces have several characters, such as '▁the'",
        ),
        (table(tmp_path / "two.txt", *SPECIAL, "a", "a"), "the piece 'a' is there twice"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            read_model(source)
        assert str(source) in str(caught.value) and "\n" not in str(caught.value)
