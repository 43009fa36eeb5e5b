"""N-grams of ARPA files: the fused score of a hypothesis is KenLM's score of the sentence."""

import builtins
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from arpa_files import write_arpa
from decoding_helpers import make_encoded, make_model

from kdasr.common.errors import UserError
from kdasr.data.token_table import read_model
from kdasr.data.tokenizer import Tokenizer, train_tokenizer, write_tokenizer
from kdasr.decoding.beam import BeamOptions, beam_search
from kdasr.decoding.rescoring import Rescoring
from kdasr.decoding.search import build_search
from kdasr.language_model.ngram import LONGEST_WORD, NgramLanguageModel
from kdasr.language_model.scorer import load_language_model, load_sentence_scorer
from kdasr.testing import random_text

kenlm = pytest.importorskip("kenlm")

TEXTS = [random_text(1 + seed % 6, seed) for seed in range(40)]
SENTENCES = [
    *("ONE TWO THREE", "", "SEVEN", "TEN TEN TEN TEN TEN TEN"),
    *("ONEONE TWO", "TWO " + "ONE" * 40 + " TWO"),  # words that the n-gram does not know
]


@pytest.fixture(params=["words", "pieces"])
def model(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Tokenizer) -> NgramLanguageModel:
    """A trigram over words, or over pieces, all of which it has."""
    rows = [text.split() for text in TEXTS]
    every: list[str] = []
    if request.param == "pieces":
        rows = [[tokenizer.piece(index) for index in tokenizer.encode(text)] for text in TEXTS]
        every = [tokenizer.piece(index) for index in range(3, tokenizer.vocab_size)]
    path = write_arpa(tmp_path / "some.arpa", rows, every)
    found = load_language_model(path, tokenizer, "here")
    assert isinstance(found, NgramLanguageModel)
    assert (found.order, found.over_pieces) == (3, request.param == "pieces")
    return found


def by_kenlm(path: Path, tokenizer: Tokenizer, pieces: Sequence[int], over_pieces: bool) -> float:
    """What the library gives the sentence, in nats."""
    units = [tokenizer.piece(i) for i in pieces] if over_pieces else tokenizer.decode(pieces).split()
    return math.log(10) * float(kenlm.Model(str(path)).score(" ".join(units)))


def test_the_parts_of_a_sentence_add_up_to_what_the_library_gives_it(
    model: NgramLanguageModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """One piece at a time, sentences of different lengths in one batch; unknown words, and one of more pieces
    than a state holds."""
    listed = [tokenizer.encode(sentence) for sentence in SENTENCES]
    assert max(map(len, listed)) > LONGEST_WORD
    expected = [by_kenlm(tmp_path / "some.arpa", tokenizer, row, model.over_pieces) for row in listed]
    totals = [0.0] * len(listed)
    log_probs_NV, state = model.score(
        torch.ones(len(listed), dtype=torch.int64), model.initial_state(len(listed))
    )
    for place in range(max(map(len, listed)) + 1):
        fed = []
        for row, pieces in enumerate(listed):
            following = pieces[place] if place < len(pieces) else 1
            if place <= len(pieces):
                totals[row] += float(log_probs_NV[row, following])
            fed.append(pieces[place] if place < len(pieces) else 3)
        log_probs_NV, state = model.score(torch.tensor(fed), state)
    assert totals == pytest.approx(expected, abs=1e-3)
    tokens_BS = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in listed], batch_first=True)
    whole_B = model.log_probs(tokens_BS.long(), torch.tensor([len(row) for row in listed]))
    assert whole_B.tolist() == pytest.approx(expected, abs=1e-3)
    assert len(set(np.round(expected, 3))) == len(expected)


def test_what_fusion_adds_is_the_score_of_the_sentence(
    model: NgramLanguageModel, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Of every hypothesis; rescoring adds the same. With hardly any weight the search is the plain one."""
    compared = 0
    transducer = make_model(vocab=tokenizer.vocab_size, sharpness=1.0)
    encoded_BTD, lens_B = make_encoded([6, 5])
    for entries in beam_search(transducer, encoded_BTD, lens_B, BeamOptions(beam=8, lm_scale=0.7), model):
        for entry in entries:
            if 1 in entry.tokens:  # a random transducer may say it; no sentence has it
                continue
            units = by_kenlm(tmp_path / "some.arpa", tokenizer, entry.tokens, model.over_pieces)
            assert entry.fused == pytest.approx(0.7 * units, abs=1e-3)
            compared += 1
    assert compared > 5
    plain = beam_search(transducer, encoded_BTD, lens_B, BeamOptions(beam=8))
    hardly = beam_search(transducer, encoded_BTD, lens_B, BeamOptions(beam=8, lm_scale=1e-9), model)
    search = build_search(transducer, BeamOptions(beam=8), Rescoring(model, 0.7))
    states = search.advance(encoded_BTD, lens_B, [search.initial_state() for _ in lens_B])
    for expected, found, state in zip(plain, hardly, states, strict=True):
        assert [entry.tokens for entry in found] == [entry.tokens for entry in expected]
        assert [n.score for n in found] == pytest.approx([n.score for n in expected], abs=1e-5)
        for entry in search.nbest(state, final=True):
            units = by_kenlm(tmp_path / "some.arpa", tokenizer, entry.tokens, model.over_pieces)
            assert entry.fused == pytest.approx(0.7 * units, abs=1e-3)


@pytest.mark.parametrize("kind", ["words", "unheard words", "characters", "unmarked characters"])
def test_pieces_may_be_characters(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With a mark for the start of a word as in English, or without one as in Chinese."""
    if kind == "unmarked characters":
        table = ["<blk>", "<sos/eos>", "<unk>", *"我们你好"]
        rows_of_table = "".join(f"{name} {index}\n" for index, name in enumerate(table))
        (tmp_path / "tokens.txt").write_text(rows_of_table, encoding="utf-8")
        tokenizer = write_tokenizer(read_model(tmp_path / "tokens.txt"), tmp_path)
        texts = ["我们好", "你好"]
    else:
        texts = TEXTS if kind == "unheard words" else [*TEXTS, "I TEN"]
        tokenizer = train_tokenizer(texts, 0, tmp_path, model_type="char")
    every = [tokenizer.piece(index) for index in range(3, tokenizer.vocab_size)]
    assert not any(len(piece) > 1 for piece in every)
    over_pieces = kind.endswith("characters")
    rows = [text.split() for text in texts]
    if over_pieces:
        rows = [[tokenizer.piece(index) for index in tokenizer.encode(text)] for text in texts]
    path = write_arpa(tmp_path / "some.arpa", rows, every if over_pieces else [])
    found = load_language_model(path, tokenizer, "here")
    assert isinstance(found, NgramLanguageModel) and found.over_pieces == over_pieces
    assert ("no character is a word" in caplog.text) == (kind == "unheard words")
    pieces, total = tokenizer.encode(texts[0]), 0.0
    log_probs_NV, state = found.score(torch.tensor([1]), found.initial_state(1))
    for following in [*pieces, 1]:
        total += float(log_probs_NV[0, following])
        log_probs_NV, state = found.score(torch.tensor([following]), state)
    assert total == pytest.approx(by_kenlm(path, tokenizer, pieces, over_pieces), abs=1e-3)


def test_what_is_no_ngram_for_these_pieces_is_refused(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.arpa").write_text("ONE TWO\n")
    (tmp_path / "packed.arpa.gz").write_bytes(b"")
    write_arpa(tmp_path / "lower.arpa", [["one", "two"]], [])
    marked = next(i for i in range(3, tokenizer.vocab_size) if len(tokenizer.piece(i)) > 1)
    write_arpa(tmp_path / "others.arpa", [[tokenizer.piece(marked), "▁OTHER"]], [])
    for name, message in (
        ("none.arpa", "no such n-gram"),
        ("bad.arpa", "KenLM cannot read"),
        ("packed.arpa.gz", "unpack it first"),
        ("lower.arpa", "another spelling"),
        ("others.arpa", "over pieces, but over others"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*{message}"):
            load_sentence_scorer(tmp_path / name, tokenizer, "here")
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "kenlm":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"kdasr\[ngram\]"):
        load_language_model(tmp_path / "lower.arpa", tokenizer, "here")
