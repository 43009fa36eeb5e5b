"""Vocabularies, grammar, homophones and the plan of who says what."""

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from kdasr.common.errors import UserError
from kdasr.corpora.synthetic.alignment import transcript
from kdasr.corpora.synthetic.espeak import Synthesizer
from kdasr.corpora.synthetic.grammar import Grammar
from kdasr.corpora.synthetic.homophones import homophone_sets
from kdasr.corpora.synthetic.inflection import past, plural, present_participle, third_person, with_article
from kdasr.corpora.synthetic.plan import (
    PARTS,
    TRAIN_PARTS,
    CorpusPlan,
    draw_speakers,
    lm_sentences,
    make_plan,
)
from kdasr.corpora.synthetic.sizes import LARGE, SIZES, PartSize
from kdasr.corpora.synthetic.vocabulary import DEMO, Vocabulary
from kdasr.corpora.synthetic.voices import SEEN_ACCENTS


def _draw(vocabulary: Vocabulary, count: int) -> list[list[str]]:
    grammar, rng = Grammar(vocabulary), np.random.default_rng(0)
    return [transcript(grammar.sentence(rng)).split() for _ in range(count)]


@pytest.fixture(scope="module")
def large_sentences() -> list[list[str]]:
    return _draw(LARGE, 12000)


@pytest.fixture(scope="module")
def demo_plan() -> CorpusPlan:
    return make_plan(SIZES["demo"], 1)


def test_demo_sentences_are_short_and_their_words_few(demo_plan: CorpusPlan) -> None:
    lengths = [len(words.split()) for words in demo_plan.transcripts]
    assert min(lengths) == 3
    assert max(lengths) == 9
    assert 50 <= len({word for words in demo_plan.transcripts for word in words.split()}) <= 100


def test_large_vocabulary_is_used(large_sentences: list[list[str]]) -> None:
    counts = Counter(word for words in large_sentences for word in words)
    assert sum(count >= 2 for count in counts.values()) >= 1500


def test_word_frequencies_are_zipf_like(large_sentences: list[list[str]]) -> None:
    """Log frequency falls with log rank at a slope near -1."""
    counts = sorted(Counter(word for words in large_sentences for word in words).values(), reverse=True)
    ranks = np.arange(10, 1000)
    slope = np.polyfit(np.log(ranks), np.log(np.array(counts)[ranks]), 1)[0]
    assert -1.4 < slope < -0.6


def test_the_first_words_of_a_class_are_the_most_frequent() -> None:
    """Weights are 1 / (rank + 3): the first of ten words is drawn four times as often as the last."""
    letters = tuple("abcdefghij")
    words = _draw(Vocabulary({"letter": letters}, {"sentence": ((1.0, "{letter}"),)}), 20000)
    counts = Counter(word for (word,) in words)
    assert counts["A"] / counts["J"] == pytest.approx(4.0, rel=0.15)


def test_words_keep_the_same_company_whoever_speaks() -> None:
    """After each word two of six, every word in some company, and after none all of them."""
    words = {"first": tuple("bcdfgh"), "second": tuple("uvwxyz")}
    vocabulary = Vocabulary(words, {"sentence": ((1.0, "{first} {second}"),)}, company=2)
    followers = defaultdict(set)
    for seed in (0, 1):
        grammar, rng = Grammar(vocabulary), np.random.default_rng(seed)
        for _ in range(1000):
            first, second = grammar.sentence(rng).split()
            followers[first].add(second)
    assert {first: len(seen) for first, seen in followers.items()} == dict.fromkeys("bcdfgh", 2)
    assert len(set.union(*followers.values())) > 2


def test_an_unknown_slot_is_named() -> None:
    with pytest.raises(ValueError, match="colr"):
        Grammar(Vocabulary(classes={}, rules={"sentence": ((1.0, "the {colr} box"),)}))


def test_inflection() -> None:
    assert [plural(noun) for noun in ("book", "box", "lady", "boy", "child>children")] == [
        "books",
        "boxes",
        "ladies",
        "boys",
        "children",
    ]
    assert [past(verb) for verb in ("carry", "stop*", "close", "play", "take>took")] == [
        "carried",
        "stopped",
        "closed",
        "played",
        "took",
    ]
    assert [present_participle(verb) for verb in ("carry", "stop*", "close", "tie", "see>saw")] == [
        "carrying",
        "stopping",
        "closing",
        "tying",
        "seeing",
    ]
    assert [third_person(verb) for verb in ("carry", "watch", "stop*", "take>took")] == [
        "carries",
        "watches",
        "stops",
        "takes",
    ]
    assert (
        with_article("a owl saw a uniform for a hour in a box") == "an owl saw a uniform for an hour in a box"
    )


def test_each_carrier_has_one_member_of_its_set() -> None:
    for members in homophone_sets():
        assert len(members) >= 2
        for member, carriers in members.items():
            assert len(carriers) >= 2, member
            for carrier in carriers:
                present = [
                    word for word in re.findall(r"(?<!\{)\b[a-z]+\b(?![}:])", carrier) if word in members
                ]
                assert present == [member], carrier


def test_all_members_of_all_sets_are_drawn(large_sentences: list[list[str]]) -> None:
    counts = Counter(word for words in large_sentences for word in words)
    for members in homophone_sets():
        for member in members:
            assert counts[member.upper()] >= 10, member


def test_no_class_offers_a_choice_between_homophones() -> None:
    for name, words in LARGE.classes.items():
        for members in homophone_sets():
            assert len(members.keys() & set(words)) <= 1, (name, members.keys())


def _sounds(words: list[str], accent: str) -> dict[str, str]:
    phonemes = Synthesizer().phonemes(words, f"gmw/{accent}")
    return {word: re.sub(r"[',%=]", "", sound) for word, sound in zip(words, phonemes, strict=True)}


def test_homophones_sound_alike_in_every_accent() -> None:
    sets = homophone_sets()
    alike = set(range(len(sets)))
    for accent in SEEN_ACCENTS:
        sounds = _sounds([word for members in sets for word in members], accent)
        alike &= {index for index in alike if len({sounds[word] for word in sets[index]}) == 1}
    assert len(alike) >= 40


@pytest.mark.parametrize("accent", SEEN_ACCENTS)
def test_there_are_no_other_homophones(accent: str) -> None:
    """A pair outside the table could stand in the same place and be undecidable."""
    listed = [members.keys() for members in homophone_sets()]
    words = {word for words in LARGE.classes.values() for word in words}
    words |= {
        word for template in LARGE.templates() for word in re.sub(r"\{[^}]*\}|,", " ", template).split()
    }
    groups = defaultdict(set)
    for word, sound in _sounds(sorted(words), accent).items():
        groups[sound].add(word)
    for group in groups.values():
        assert len(group) == 1 or any(group <= members for members in listed), group


@pytest.mark.parametrize("name", ["demo", "results", "base", "large"])
def test_speakers(name: str) -> None:
    speakers = draw_speakers(SIZES[name], 3)
    assert len(speakers) >= 150
    assert len({speaker.id for speaker in speakers}) == len(speakers)
    assert len({replace(speaker, id="", part="") for speaker in speakers}) == len(speakers)
    pairs, accents = defaultdict(set), defaultdict(set)
    for speaker in speakers:
        split = speaker.part.split("-")[0]
        pairs[split].add((speaker.accent, speaker.variant))
        accents[speaker.part].add(speaker.accent)
    assert not pairs["train"] & pairs["dev"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["dev"] & pairs["test"]
    trained = accents["train-clean-100"] | accents["train-clean-360"]
    for part in ("dev", "test"):
        assert accents[f"{part}-clean"] <= trained
        assert not accents[f"{part}-other"] & trained
        sexes = Counter(speaker.sex for speaker in speakers if speaker.part.startswith(part))
        assert abs(sexes["F"] - sexes["M"]) <= 0.4 * sum(sexes.values())


def test_the_plan_has_every_part_and_repeats_no_sentence(demo_plan: CorpusPlan) -> None:
    assert {chapter.speaker.part for chapter in demo_plan.chapters} == set(SIZES["demo"].parts) < set(PARTS)
    texts = [transcript(item.text) for chapter in demo_plan.chapters for item in chapter.utterances]
    assert len(set(texts)) == len(texts)
    assert set(texts) == demo_plan.transcripts
    ids = [item.id for chapter in demo_plan.chapters for item in chapter.utterances]
    assert len(set(ids)) == len(ids)


def test_every_word_of_the_other_parts_occurs_in_training(demo_plan: CorpusPlan) -> None:
    words: dict[bool, set[str]] = {True: set(), False: set()}
    for chapter in demo_plan.chapters:
        for item in chapter.utterances:
            words[chapter.speaker.part in TRAIN_PARTS].update(transcript(item.text).split())
    assert words[False] <= words[True]


def test_lm_text_shares_no_sentence_with_the_transcripts(demo_plan: CorpusPlan) -> None:
    sentences = list(lm_sentences(demo_plan))
    assert len(sentences) == demo_plan.size.lm_sentences
    assert not set(sentences) & demo_plan.transcripts


def test_another_seed_gives_other_people_and_sentences() -> None:
    size = SIZES["tiny"]
    first, second = make_plan(size, 1), make_plan(size, 2)
    assert first == make_plan(size, 1)
    assert first.speakers != second.speakers
    assert first.transcripts != second.transcripts


def test_a_vocabulary_that_is_too_small_is_reported() -> None:
    words = Vocabulary(classes={"colour": ("red", "green")}, rules={"sentence": ((1.0, "the {colour} box"),)})
    one = dict.fromkeys(PARTS, PartSize(1, 1, 1))
    with pytest.raises(UserError, match="no unused sentence"):
        make_plan(replace(SIZES["tiny"], vocabulary=words, parts=one), 1)


def test_demo_words_are_not_homophones() -> None:
    words = {word for words in DEMO.classes.values() for word in words}
    for members in homophone_sets():
        assert len(members.keys() & words) <= 1
