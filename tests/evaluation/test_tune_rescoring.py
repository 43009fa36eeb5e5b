"""Weights of rescoring: against a list that was computed by hand, and against all pairs one by one."""

import itertools

import numpy as np
import pytest

from kdasr.evaluation.tune_rescoring import BONUSES, SCALES, Scored, Tuned, choose_weights

LISTED = [
    # Without the language model the first one wins; with half of it the second one: -3 - 2.5 > -1 - 5.
    Scored(scores=[-1.0, -3.0, -2.0], lm_scores=[-10.0, -5.0, -9.0], words=[2, 3, 1], errors=[1, 0, 2]),
    # The right one is longer by two words, and 4 nats behind with half of the language model: 2 nats a word.
    Scored(scores=[-1.0, -2.0], lm_scores=[-4.0, -10.0], words=[1, 3], errors=[2, 0]),
]


@pytest.mark.parametrize(
    ("scales", "bonuses", "expected"),
    [
        ([0.0], [0.0], Tuned(0.0, 0.0, 3, 3, 0)),
        ([0.0, 0.5], [0.0], Tuned(0.5, 0.0, 2, 3, 0)),
        ([0.5], [0.0, 1.9, 2.1], Tuned(0.5, 2.1, 0, 3, 0)),
        ([0.0], [-1.0, 0.0, 3.0], Tuned(0.0, 3.0, 0, 3, 0)),
    ],
)
def test_a_list_by_hand(scales: list[float], bonuses: list[float], expected: Tuned) -> None:
    assert choose_weights(LISTED, scales, bonuses) == expected


def test_no_pair_of_the_grid_makes_fewer_errors() -> None:
    generator = np.random.default_rng(5)
    utterances = []
    for _ in range(30):
        count = int(generator.integers(1, 6))
        utterances.append(
            Scored(
                scores=sorted(generator.normal(-5, 3, count).tolist(), reverse=True),
                lm_scores=generator.normal(-20, 5, count).tolist(),
                words=generator.integers(0, 8, count).tolist(),
                errors=generator.integers(0, 5, count).tolist(),
            )
        )
    found = choose_weights(utterances)

    def errors(scale: float, bonus: float) -> int:
        total = 0
        for one in utterances:
            rows = zip(one.scores, one.lm_scores, one.words, one.errors, strict=True)
            total += max((s + scale * lm + bonus * n, -place, e) for place, (s, lm, n, e) in enumerate(rows))[
                2
            ]
        return total

    tried = {pair: errors(*pair) for pair in itertools.product(SCALES, BONUSES)}
    assert found.errors == min(tried.values()) == tried[found.scale, found.bonus] < found.errors_before
    best = [pair for pair, count in tried.items() if count == found.errors]
    assert (found.scale, abs(found.bonus)) == min((scale, abs(bonus)) for scale, bonus in best)
    assert found.errors_best <= found.errors
