"""Labels of proposals: the filters by hand, the weights by brute force."""

from dataclasses import replace
from math import exp

import pytest
import torch

from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import LabelConfig
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel
from kdasr.self_training.labels import (
    FirstGuess,
    Labeler,
    Labels,
    Proposal,
    fits_length,
    lowest_score,
    most_repeats,
)

PLAIN = LabelConfig(weights="uniform", length_tolerance=None)
FIRST = {"a": FirstGuess(3, -2.0), "b": FirstGuess(1, -0.5)}


def proposals(*rows: str, score: float = -4.0) -> list[Proposal]:
    """Each digit is a piece."""
    return [Proposal(tuple(map(int, row)), score - place) for place, row in enumerate(rows)]


def make_language_model() -> TransformerLanguageModel:
    config = LanguageModelConfig(
        vocab_size=11, num_layers=1, dim=8, num_heads=2, ffn_dim=16, dropout=0.0, context=4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = TransformerLanguageModel(config).eval()
        with torch.no_grad():
            model.embedding.weight.mul_(50)
    return model


def one_by_one(model: TransformerLanguageModel, pieces: tuple[int, ...]) -> float:
    """The sentence's log-probability, its end included, from the model's steps."""
    state, total = model.initial_state(1), 0.0
    with torch.no_grad():
        for fed, target in zip((1, *pieces), (*pieces, 1), strict=True):
            log_probs_NV, state = model.score(torch.tensor([fed]), state)
            total += float(log_probs_NV[0, target])
    return total


@pytest.mark.parametrize(
    ("num_first", "lowest", "highest"),
    # Ends counted: 1 -> 2, 10 -> 9 to 11, 20 -> 19 to 21, 21 -> 19 to 23, 60 -> 57 to 63, 180 -> 171 to 189.
    [(0, 1, 1), (9, 8, 10), (19, 18, 20), (20, 18, 22), (59, 56, 62), (179, 170, 188)],
)
def test_lengths_are_within_a_twentieth_rounded_outwards(num_first: int, lowest: int, highest: int) -> None:
    kept = [length for length in range(300) if fits_length(length, num_first, 0.05)]
    assert kept == list(range(lowest, highest + 1))


def test_bounds_are_those_of_the_decimal_number() -> None:
    """50 with its end, and a tenth: 45 to 55, though 1.1 * 50 is more than 55 in binary."""
    assert [fits_length(length - 1, 49, 0.1) for length in (44, 45, 55, 56)] == [False, True, True, False]


def test_nothing_is_no_label_even_without_a_length_filter() -> None:
    assert not fits_length(0, 0, None)
    assert fits_length(1, 90, None)


def test_repeats_count_neighbors_that_overlap_too() -> None:
    assert [most_repeats(row) for row in ((), (3,), (3, 4), (3, 3, 3, 3), (3, 4, 3, 4, 5, 3, 4))] == [
        *(0, 0, 1, 3, 3)
    ]


def test_filters_of_pseudo_labels() -> None:
    listed = [Proposal((3, 3, 3, 3), -1.0), Proposal((3, 3, 3), -1.0), Proposal((3, 4, 5), -8.0)]
    config = replace(PLAIN, max_repeats=2)
    assert Labeler(config, FIRST).select("a", listed) == listed[1:]
    assert Labeler(replace(config, one_best=True), FIRST).select("a", listed) == []
    # Of the first model's scores per piece, -2 and -0.5, the worse half is dropped; -8 / 4 is no better.
    assert Labeler(replace(PLAIN, worst_share=0.5), FIRST).select("a", listed) == listed[:2]


def test_a_gap_is_counted_from_the_best_proposal_wherever_it_stands() -> None:
    listed = [Proposal((3, 4), -3.0), Proposal((3, 5), -1.0), Proposal((3, 6), -3.5), Proposal((3, 7), -9.0)]
    for gap, kept in ((None, 4), (2.5, 3), (2.0, 2), (0.0, 1)):
        assert len(Labeler(replace(PLAIN, max_gap=gap), FIRST).select("a", listed)) == kept
    assert Labeler(replace(PLAIN, max_gap=2.0), FIRST).select("a", listed) == listed[:2]
    assert Labeler(replace(PLAIN, max_gap=2.0), FIRST).select("a", []) == []


def test_the_worst_share_of_scores() -> None:
    scores = [-float(value) for value in range(1, 11)]
    for share, dropped in ((0.0, 0), (0.1, 1), (0.3, 3), (0.25, 3)):
        lowest = lowest_score(scores, replace(PLAIN, worst_share=share))
        assert sum(score <= lowest for score in scores) == dropped


def test_the_same_pieces_count_once() -> None:
    labels = Labeler(PLAIN, FIRST)(["a"], [proposals("345", "346", "345")])
    assert labels.pieces == [(3, 4, 5), (3, 4, 6)]
    assert labels.weights_N.tolist() == [0.5, 0.5]


def test_label_weights_are_the_priors_of_the_kept_ones() -> None:
    model, listed = make_language_model(), [proposals("345", "3", "3465"), [], proposals("9", "77")]
    config = LabelConfig(length_tolerance=0.25)
    # 3 + 1 pieces and end: 3 to 5; 1 + 1: 1 to 3, so that only the single "3" of the first is dropped.
    labels = Labeler(config, {**FIRST, "c": FIRST["b"]}, model)(["a", "b", "c"], listed)
    assert labels.owners == [0, 0, 2, 2]
    assert labels.pieces == [(3, 4, 5), (3, 4, 6, 5), (9,), (7, 7)]
    scores = [one_by_one(model, pieces) for pieces in labels.pieces]
    expected = [exp(score) / sum(map(exp, group)) for group in (scores[:2], scores[2:]) for score in group]
    assert labels.weights_N.tolist() == pytest.approx(expected, rel=1e-4)
    assert abs(expected[0] - 0.5) > 0.01 and not labels.weights_N.requires_grad
    sums = [float(labels.weights_N[:2].sum()), float(labels.weights_N[2:].sum())]
    assert sums == pytest.approx([1.0, 1.0])


def test_confidence_is_the_proposal_models_probability_per_piece() -> None:
    config = replace(PLAIN, weights="confidence", one_best=True)
    labels = Labeler(config, FIRST)(["a", "b"], [proposals("345", "34"), proposals("6", score=1e-3)])
    assert labels.weights_N.tolist() == pytest.approx([exp(-4.0 / 4), 1.0])


def test_shares_sum_to_one_whatever_the_weights() -> None:
    labels = Labels([0, 0, 2], [(3,), (4,), (5,)], torch.tensor([0.1, 0.3, 0.2]), 4)
    found = [(owner, weights_K.tolist(), pieces) for owner, weights_K, pieces in labels.shares()]
    assert found == [(0, pytest.approx([0.25, 0.75]), [(3,), (4,)]), (2, [1.0], [(5,)])]


def test_what_cannot_be_is_named() -> None:
    for name, value in (
        ("weights", "posterior"),
        ("beam", 0),
        ("blank_penalty", float("nan")),
        ("max_gap", -0.5),
        ("max_repeats", -1),
        ("worst_share", 1.0),
        ("length_tolerance", 1.0),
    ):
        with pytest.raises(UserError, match=rf"(unpaired\.labels\.)?{name}'? (is )?{value}"):
            Labeler(replace(PLAIN, **{name: value}), FIRST)
    with pytest.raises(UserError, match=r"'prior' needs unpaired\.language_model"):
        Labeler(LabelConfig(), FIRST)
    with pytest.raises(UserError, match="zebra"):
        Labeler(PLAIN, FIRST)(["zebra"], [proposals("3")])
