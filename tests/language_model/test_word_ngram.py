"""Word n-grams: probabilities, against NLTK's own scores and by hand."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdasr.common.errors import UserError
from kdasr.language_model.word_ngram import UNIFORM, WordNgram

TEXT = ["A B", "A C", "", "B", "A B C A"]
sentences = st.lists(st.lists(st.sampled_from("ABC"), max_size=6).map(" ".join), min_size=1, max_size=6)


def spell(ids: list[int]) -> str:
    return " ".join("ABCX"[index] for index in ids)


def ngram(order: int = 3, text: list[str] = TEXT) -> WordNgram:
    return WordNgram(text, spell, order)


def by_hand(text: list[str], before: tuple[str, ...], word: str) -> float:
    """Witten and Bell: `(count + types * lower) / (total + types)` after a context, down to the empty one."""
    counts: Counter[str] = Counter()
    for sentence in text:
        words = ["<s>", "<s>", *sentence.split(), "</s>"]
        for place in range(2, len(words)) if sentence else ():
            if tuple(words[place - len(before) : place]) == before:
                counts[words[place]] += 1
    if not before:
        return counts[word] / counts.total()
    lower = by_hand(text, before[1:], word)
    if not counts:
        return lower
    return (counts[word] + len(counts) * lower) / (counts.total() + len(counts))


@settings(deadline=None)  # the first one imports NLTK
@given(sentences, st.lists(st.sampled_from(["A", "B", "C"]), min_size=2, max_size=2), st.sampled_from("ABC"))
def test_probabilities_are_those_of_witten_and_bell(text: list[str], before: list[str], word: str) -> None:
    if not any(text):
        return
    model = ngram(3, text)
    vocabulary = {word for sentence in text for word in sentence.split()} | {"</s>"}
    expected = by_hand(text, tuple(before), word) if word in vocabulary else 0.0
    uniform = UNIFORM / (len(vocabulary) + 1)
    assert model.prob(before, word) == pytest.approx((1 - UNIFORM) * expected + uniform)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "before", [["<s>", "<s>", "<s>"], ["<s>", "<s>", "A"], ["A", "B", "C"], ["X", "X", "X"]]
)
def test_word_probabilities_sum_to_one(order: int, before: list[str]) -> None:
    model = ngram(order)
    context = before[len(before) - order + 1 :] if order > 1 else []
    assert sum(model.prob(context, word) for word in ("A", "B", "C", "</s>", "X")) == pytest.approx(1)


def test_a_sentence_is_the_product_of_its_words_and_its_end() -> None:
    model = ngram()
    steps = [(["<s>", "<s>"], "A"), (["<s>", "A"], "B"), (["A", "B"], "</s>")]
    expected = sum(math.log(model.prob(before, word)) for before, word in steps)
    tokens_BS = torch.tensor([[0, 1, 2], [0, 1, 0], [0, 3, 0]])
    scores_B = model.log_probs(tokens_BS, torch.tensor([2, 0, 2]))
    torch.testing.assert_close(scores_B[0], torch.tensor(expected))
    torch.testing.assert_close(scores_B[1], torch.tensor(math.log(model.prob(["<s>", "<s>"], "</s>"))))
    assert scores_B.dtype == torch.float32 and math.isfinite(scores_B[2]) and scores_B[2] < scores_B[0]


def test_text_without_words_and_an_impossible_order_are_refused() -> None:
    with pytest.raises(UserError, match="no words"):
        ngram(3, ["", "  "])
    with pytest.raises(ValueError, match="order 0"):
        ngram(0)
