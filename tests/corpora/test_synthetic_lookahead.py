"""The vocabulary in which only the next word tells homophones apart."""

import re
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from kdasr.corpora.synthetic.alignment import transcript
from kdasr.corpora.synthetic.espeak import Synthesizer
from kdasr.corpora.synthetic.grammar import Grammar
from kdasr.corpora.synthetic.lookahead import RESULTS, homophone_pairs
from kdasr.corpora.synthetic.voices import SEEN_ACCENTS

PAIRS = homophone_pairs()


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    grammar, rng = Grammar(RESULTS), np.random.default_rng(0)
    return [transcript(grammar.sentence(rng)).lower().split() for _ in range(30000)]


def test_pairs_sound_the_same_and_no_other_words_do() -> None:
    words = {word for words in RESULTS.classes.values() for word in words}
    words |= {word for text in RESULTS.templates() for word in re.sub(r"\{[^}]*\}|,", " ", text).split()}
    for accent in SEEN_ACCENTS:
        groups = defaultdict(set)
        ordered = sorted(words)
        for word, sound in zip(ordered, Synthesizer().phonemes(ordered, f"gmw/{accent}"), strict=True):
            groups[re.sub(r"[',%=]", "", sound)].add(word)
        alike = [group for group in groups.values() if len(group) > 1]
        assert sorted(map(sorted, alike)) == sorted(map(sorted, PAIRS)), accent


def test_what_stands_before_says_nothing(sentences: list[list[str]]) -> None:
    """Both words of a pair are as frequent, and so are the words before each."""
    counts, before = Counter(), {0: Counter(), 1: Counter()}
    side = {word: index for pair in PAIRS for index, word in enumerate(pair)}
    for words in sentences:
        for index, word in enumerate(words):
            if word in side:
                counts[word] += 1
                before[side[word]].update([tuple(words[max(index - 2, 0) : index])[:1]])
    for modifier, noun in PAIRS:
        total = counts[modifier] + counts[noun]
        assert abs(counts[noun] / total - 0.5) < 4 * 0.5 / total**0.5, (modifier, noun)
    seen = before[0] + before[1]
    for words, total in seen.items():
        if total >= 50:
            assert abs(before[0][words] / total - 0.5) < 4 * 0.5 / total**0.5, words


def test_the_next_word_decides(sentences: list[list[str]]) -> None:
    side = {word: index for pair in PAIRS for index, word in enumerate(pair)}
    after: dict[int, set[str]] = {0: set(), 1: set()}
    for words in sentences:
        assert words[-1] not in side
        for word, following in pairwise(words):
            if word in side:
                after[side[word]].add(following)
    assert after[0] and after[1]
    assert not after[0] & after[1]


def test_homophones_are_a_fair_share_of_the_words(sentences: list[list[str]]) -> None:
    members = {word for pair in PAIRS for word in pair}
    words = [word for sentence in sentences for word in sentence]
    assert 0.03 < sum(word in members for word in words) / len(words) < 0.06
