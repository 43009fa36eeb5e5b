"""Confidence: posteriors of emitted pieces, the map that calibrates them, and the measures of both."""

import math
from itertools import product

import numpy as np
import pytest
from decoding_helpers import Model, log_probs_after, make_encoded, make_model

from kdasr.common.calibration import Calibration, fit_calibration, log_odds
from kdasr.common.errors import UserError
from kdasr.decoding.confidence import (
    area_under_curve,
    calibration_error,
    reliability,
    word_probability,
)
from kdasr.decoding.search import BeamOptions, GreedyOptions, build_search


@pytest.mark.parametrize(
    "options",
    [
        GreedyOptions(),
        GreedyOptions(blank_penalty=1.0),
        BeamOptions(beam=3, blank_penalty=0.5, temperature=1.5),
    ],
    ids=str,
)
def test_pieces_have_the_posteriors_of_their_frames(options: GreedyOptions | BeamOptions) -> None:
    model: Model = make_model()
    encoded_BTD, lens_B = make_encoded([17, 5, 0, 30])
    search = build_search(model, options)
    states = [search.initial_state() for _ in lens_B]
    for start in range(0, 30, 7):  # chunk by chunk, of different lengths
        chunk_lens = (lens_B - start).clamp(0, 7)
        states = search.advance(encoded_BTD[:, start : start + 7], chunk_lens, states)
    temperature = getattr(options, "temperature", 1.0)
    num_pieces = 0
    for row, state in enumerate(states):
        best = search.best(state)
        for place, item in enumerate(best.emissions):
            before = tuple(best.tokens[:place])
            log_probs = log_probs_after(
                model, encoded_BTD[row, item.frame], before, options.blank_penalty, temperature
            )
            assert item.log_prob == pytest.approx(log_probs[item.token], abs=1e-4)
            of_pieces = log_probs[item.token] - math.log1p(-math.exp(log_probs[0]))
            assert item.log_confidence == pytest.approx(of_pieces, abs=1e-4)
            num_pieces += 1
        assert search.best(state, start=1).log_probs == best.log_probs[1:]
    assert num_pieces > 10


def test_a_word_is_as_sure_as_its_pieces_are_on_average() -> None:
    assert word_probability([math.log(0.9)]) == pytest.approx(0.9)
    assert word_probability([math.log(0.8), math.log(0.2)]) == pytest.approx(0.4)
    assert word_probability([1e-7]) == 1.0  # rounding beyond certainty
    assert word_probability([-1e4, -1e4]) == 0.0


def test_a_fitted_map_recovers_the_true_one() -> None:
    generator = np.random.default_rng(0)
    raw = 1 / (1 + np.exp(-generator.normal(1.0, 2.0, 40_000)))
    for slope, offset in [(0.6, -1.0), (1.0, 0.0), (2.5, 0.7)]:
        true = 1 / (1 + np.exp(-(slope * log_odds(raw) + offset)))
        fitted = fit_calibration(raw.tolist(), (generator.random(len(raw)) < true).tolist())
        assert fitted is not None
        assert (fitted.slope, fitted.offset) == pytest.approx((slope, offset), rel=0.05, abs=0.05)


def test_no_map_can_be_better_than_the_fitted_one() -> None:
    """Of few observations that it separates, the targets of Platt's keep it finite."""
    raw, correct = [0.2, 0.4, 0.8, 0.9, 0.99], [False, False, True, True, True]
    fitted = fit_calibration(raw, correct)
    assert fitted is not None and fitted.slope < 20
    targets = [0.8 if right else 0.25 for right in correct]  # (3 + 1) / (3 + 2) and 1 / (2 + 2)

    def loss(mapped: Calibration) -> float:
        said = [mapped(value) for value in raw]
        return -sum(t * math.log(p) + (1 - t) * math.log(1 - p) for t, p in zip(targets, said, strict=True))

    for more, further in product((-0.05, 0.0, 0.05), repeat=2):
        assert loss(fitted) <= loss(Calibration(fitted.slope + more, fitted.offset + further)) + 1e-9


@pytest.mark.parametrize("slope, offset", [(0.01, -5.0), (1.2, -3.8), (50.0, 40.0)])
def test_a_calibrated_confidence_is_a_probability_and_keeps_the_order(slope: float, offset: float) -> None:
    mapped = Calibration(slope, offset)
    values = [mapped(raw) for raw in [0.0, 1e-30, *np.linspace(0, 1, 201).tolist(), 1 - 1e-12, 1.0]]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert values == sorted(values)
    assert Calibration(1.0, 0.0)(0.3) == pytest.approx(0.3)


def test_words_that_say_nothing_calibrate_nothing() -> None:
    assert fit_calibration([0.5, 0.9], [True, True]) is None
    assert fit_calibration([0.5, 0.9], [False, False]) is None
    assert fit_calibration([], []) is None
    assert fit_calibration([0.9, 0.8, 0.2, 0.1] * 10, [False, False, True, True] * 10) is None  # backwards
    for slope, offset in [(0.0, 1.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, math.inf)]:
        with pytest.raises(UserError, match="slope above 0"):
            Calibration(slope, offset)


def test_the_area_under_the_curve_counts_pairs() -> None:
    generator = np.random.default_rng(1)
    confidences = np.round(generator.random(60), 1).tolist()  # with ties
    correct = (generator.random(60) < confidences).tolist()
    pairs = [
        0.5 if right == wrong else float(right > wrong)
        for right, wrong in product(
            [c for c, good in zip(confidences, correct, strict=True) if good],
            [c for c, good in zip(confidences, correct, strict=True) if not good],
        )
    ]
    assert area_under_curve(confidences, correct) == pytest.approx(sum(pairs) / len(pairs))
    assert area_under_curve([0.1, 0.9], [True, True]) is area_under_curve([], []) is None


def test_reliability_and_its_error_by_hand() -> None:
    confidences = [0.05, 0.92, 0.98, 1.0, 0.5]
    correct = [False, True, True, False, True]
    bins = reliability(confidences, correct)
    assert [(part.low, part.words, part.accuracy) for part in bins] == [
        (0.0, 1, 0.0),
        (0.5, 1, 1.0),
        (0.9, 3, pytest.approx(2 / 3)),
    ]
    assert bins[2].confidence == pytest.approx((0.92 + 0.98 + 1.0) / 3)
    expected = (0.05 + 0.5 + 3 * abs(2.9 / 3 - 2 / 3)) / 5
    assert calibration_error(confidences, correct) == pytest.approx(expected)
    assert calibration_error([], []) is None
    with pytest.raises(ValueError, match="2 confidences of 1 words"):
        reliability([0.1, 0.2], [True])


def test_carried_hypotheses_go_on_side_by_side() -> None:
    """They are never alike, whatever follows; a list shows what they say only once."""
    model = make_model()
    encoded_BTD, lens_B = make_encoded([30])
    search = build_search(model, BeamOptions(beam=6))
    (state,) = search.advance(encoded_BTD, lens_B, [search.initial_state()])
    carried = search.carried_over(state)
    nothing, *others = carried.hypotheses
    assert nothing.score == 0.0 and len(others) == len({other.context for other in others}) > 1
    weights = [0.0, -0.1]
    for other, weight in zip(others, weights, strict=False):
        other.score = weight  # as if they had been as good as each other
    carried = carried._replace(hypotheses=tuple(others[:2]))
    (after,) = search.advance(encoded_BTD[:, :2], lens_B.clamp(max=2), [carried])
    alike = [
        [hypothesis.origin for hypothesis in after.hypotheses if hypothesis.tokens == tokens]
        for tokens in {hypothesis.tokens for hypothesis in after.hypotheses}
    ]
    assert max(map(len, alike)) == 2 and all(len(set(origins)) == len(origins) for origins in alike)
    listed = search.nbest(after)
    assert len({tuple(entry.tokens) for entry in listed}) == len(listed) == len(alike)
