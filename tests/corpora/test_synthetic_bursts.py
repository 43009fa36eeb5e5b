"""Bursts: how many words they hide, by how much, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest

from kdasr.corpora.synthetic.acoustics import Surroundings, apply_surroundings, reverberate, room_response
from kdasr.corpora.synthetic.bursts import Bursts, add_bursts
from kdasr.corpora.synthetic.noise import add_noise, colored_noise
from kdasr.corpora.synthetic.plan import PlannedUtterance, make_plan
from kdasr.corpora.synthetic.render import Renderer
from kdasr.corpora.synthetic.sizes import SIZES

WORD, GAP = 6400, 1600
"""Samples: words of 0.4 s, 0.1 s apart."""
BURSTS = Bursts(word_share=0.3, seconds=(0.06, 0.14), snr_db=(-10.0, 0.0))
QUIET = Surroundings(snr_db=(22.0, 40.0))


def speech_of(words: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Noise that stands for speech, louder from word to word, and where the words are."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(words * (WORD + GAP)) * np.linspace(0.1, 1.0, words * (WORD + GAP))
    return samples, [(GAP + index * (WORD + GAP), (index + 1) * (WORD + GAP)) for index in range(words)]


def test_bursts_fall_into_the_share_of_words_that_was_asked_for() -> None:
    samples, words = speech_of(1000)
    changed = add_bursts(samples, words, BURSTS, np.random.default_rng(1)) != samples
    hit = [changed[start:end].any() for start, end in words]
    assert np.mean(hit) == pytest.approx(BURSTS.word_share, abs=0.05)
    assert changed.sum() == sum(changed[start:end].sum() for start, end in words)  # nothing between words


def test_a_burst_is_one_stretch_as_long_and_as_loud_as_was_asked_for() -> None:
    samples, words = speech_of(400)
    added = add_bursts(samples, words, BURSTS, np.random.default_rng(2)) - samples
    lengths, levels, starts = [], [], []
    for start, end in words:
        (where,) = np.nonzero(added[start:end])
        if len(where):
            first, last = start + where[0], start + where[-1] + 1
            lengths.append((last - first) / 16000)
            starts.append(where[0] / WORD)
            power = np.mean(added[first:last] ** 2) / np.mean(samples[first:last] ** 2)
            levels.append(-10 * np.log10(power))
    assert 0.059 < min(lengths) < 0.07 and 0.13 < max(lengths) <= 0.14
    assert -10.01 < min(levels) < -9 and -1 < max(levels) < 0.01
    assert min(starts) < 0.1 and max(starts) > 0.6  # anywhere in the word


def test_a_burst_is_never_longer_than_its_word() -> None:
    samples = np.ones(2000)
    noisy = add_bursts(samples, [(500, 900)], replace(BURSTS, word_share=1.0), np.random.default_rng(3))
    assert (noisy[500:900] != 1.0).all()
    assert (noisy[:500] == 1.0).all() and (noisy[900:] == 1.0).all()


def test_the_recording_itself_is_left_alone() -> None:
    samples, words = speech_of(20)
    before = samples.copy()
    add_bursts(samples, words, BURSTS, np.random.default_rng(4))
    np.testing.assert_array_equal(samples, before)


def test_without_bursts_the_draws_are_room_level_and_noise() -> None:
    """In this order and no others, or every corpus without bursts would change."""
    samples, words = speech_of(3)
    limits = replace(QUIET, drr_db=(4.0, 16.0))
    rng = np.random.default_rng(5)
    drr_db, seconds = rng.uniform(*limits.drr_db), rng.uniform(*limits.reverberation_seconds)
    wet = reverberate(samples, room_response(drr_db, seconds, rng))
    snr_db, _ = rng.uniform(*limits.snr_db), rng.random()
    expected = add_noise(wet, colored_noise(len(wet), rng.uniform(*limits.slope_db), rng), snr_db)
    np.testing.assert_array_equal(
        apply_surroundings(samples, words, limits, None, np.random.default_rng(5)), expected
    )


def test_bursts_come_last() -> None:
    samples, words = speech_of(10)
    plain = apply_surroundings(samples, words, QUIET, None, np.random.default_rng(6))
    noisy = apply_surroundings(samples, words, replace(QUIET, bursts=BURSTS), None, np.random.default_rng(6))
    changed = plain != noisy
    assert 0 < changed.sum() < 10 * 0.14 * 16000
    assert not changed[[index for start, _ in words for index in range(start - GAP, start)]].any()


def test_the_share_of_rooms_is_what_was_asked_for() -> None:
    """A click is followed by reflections in a room, and by nothing where there is none."""
    click = np.zeros(4000)
    click[100] = 1.0
    limits = Surroundings(snr_db=(60.0, 60.0), drr_db=(4.0, 4.0), room_share=0.3)
    wet = []
    for seed in range(300):
        heard = apply_surroundings(click, [(0, 4000)], limits, None, np.random.default_rng(seed))
        wet.append(np.sum(heard[200:] ** 2) > 0.1)
    assert np.mean(wet) == pytest.approx(0.3, abs=0.08)


def test_bursts_move_no_word() -> None:
    size = SIZES["results"]
    without = replace(size, clean=replace(size.clean, bursts=None))
    speaker = make_plan(SIZES["tiny"], 5).speakers[0]
    utterance = PlannedUtterance("x", "the captain carried seven yellow umbrellas near the mountain")
    noisy, again, quiet = (Renderer(which, 5).render(utterance, speaker) for which in (size, size, without))
    assert noisy.words == quiet.words
    np.testing.assert_array_equal(noisy.samples_N, again.samples_N)
    assert len(noisy.samples_N) == len(quiet.samples_N)
    assert (noisy.samples_N != quiet.samples_N).any()
