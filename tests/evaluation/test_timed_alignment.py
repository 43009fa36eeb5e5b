"""Alignment of long streams: the fewest errors, then the nearest in time."""

import numpy as np
import pytest

from kdasr.evaluation.timed_alignment import align_timed_words
from kdasr.evaluation.wer import AlignedPair, align_words, count_errors

ERROR = 10**9


def cost(pairs: list[AlignedPair], ref_times: np.ndarray, hyp_times: np.ndarray) -> int:
    """Errors before milliseconds."""
    total = 0
    for pair in pairs:
        total += 0 if pair.correct else ERROR
        if pair.ref is not None and pair.hyp is not None:
            total += round(1000 * abs(ref_times[pair.ref] - hyp_times[pair.hyp]))
    return total


def cheapest(ref: list[str], hyp: list[str], ref_times: np.ndarray, hyp_times: np.ndarray) -> int:
    """The textbook recursion."""
    table = {(-1, -1): 0}
    for i in range(-1, len(ref)):
        for j in range(-1, len(hyp)):
            ways = [table[i - 1, j] + ERROR] if i >= 0 else []
            ways += [table[i, j - 1] + ERROR] if j >= 0 else []
            if i >= 0 and j >= 0:
                apart = round(1000 * abs(ref_times[i] - hyp_times[j]))
                ways.append(table[i - 1, j - 1] + apart + ERROR * (ref[i] != hyp[j]))
            table[i, j] = min(ways, default=0)
    return table[len(ref) - 1, len(hyp) - 1]


@pytest.mark.parametrize("seed", range(20))
def test_no_alignment_is_cheaper_than_the_one_found(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, m = (int(count) for count in random.integers(0, 40, 2))
    ref, hyp = ([str(word) for word in random.integers(0, 3, count)] for count in (n, m))
    ref_times, hyp_times = (np.sort(random.integers(0, 30_000, count)) / 1000 for count in (n, m))
    pairs = align_timed_words(ref, hyp, ref_times, hyp_times)
    assert [pair.ref for pair in pairs if pair.ref is not None] == list(range(n))
    assert [pair.hyp for pair in pairs if pair.hyp is not None] == list(range(m))
    for pair in pairs:
        same = pair.ref is not None and pair.hyp is not None and ref[pair.ref] == hyp[pair.hyp]
        assert pair.correct == same
    assert cost(pairs, ref_times, hyp_times) == cheapest(ref, hyp, ref_times, hyp_times)


@pytest.mark.parametrize(("n", "m"), [(127, 300), (128, 128), (129, 0), (700, 431), (1000, 1100)])
def test_long_streams_have_as_many_errors_as_by_jiwer(n: int, m: int) -> None:
    random = np.random.default_rng(n)
    ref, hyp = ([str(word) for word in random.integers(0, 9, count)] for count in (n, m))
    pairs = align_timed_words(ref, hyp, np.arange(n) / 3, np.arange(m) / 3)
    assert count_errors(pairs).total == count_errors(align_words(ref, hyp)).total
    assert len({pair.ref for pair in pairs} - {None}) == n and len({pair.hyp for pair in pairs} - {None}) == m


def test_a_word_is_paired_with_its_like_of_the_same_time() -> None:
    ref, times = ["A", "B", "A", "B", "A", "B"], [1.0, 2.0, 11.0, 12.0, 21.0, 22.0]
    for lost in (0, 2, 4):
        heard = [place for place in range(6) if place not in (lost, lost + 1)]
        emitted = [times[place] + 0.2 for place in heard]
        pairs = align_timed_words(ref, [ref[place] for place in heard], times, emitted)
        assert [pair.ref for pair in pairs if pair.hyp is None] == [lost, lost + 1]


def test_words_need_their_times() -> None:
    with pytest.raises(ValueError, match="2 words with times of shape"):
        align_timed_words(["A", "B"], ["A"], [0.1], [0.2])
