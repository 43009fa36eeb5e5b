"""What a context may be."""

import random
from collections import Counter

import pytest
import torch

from kdasr.nn.blocks import clip_context
from kdasr.nn.context import Context, ContextChoice, sample_context


@pytest.mark.parametrize(
    "values",
    [(4, -1, 0), (-1, -1, 2), (-1, 4, 0), (0, 0, 0), (4, 4, -1), (10**6, 4, 0), (4, 10**6, 0), (4, 4, 10**6)],
)
def test_impossible_contexts_are_refused(values):
    with pytest.raises(ValueError, match="context"):
        Context(*values)


@pytest.mark.parametrize(
    ("context", "num_frames", "expected"),
    [
        (Context.full(), 10, (0, 10, 0)),
        (Context(7, 10, 3), 10, (0, 10, 0)),
        (Context(7, 9, 3), 10, (7, 9, 3)),
        (Context(100, 3, 2), 10, (9, 3, 2)),
        (Context(0, 3, 0), 10, (0, 3, 0)),
        (Context.full(), 0, (0, 1, 0)),
    ],
)
def test_clipping_leaves_out_what_is_beyond_the_utterance(context, num_frames, expected):
    assert clip_context(context, num_frames) == expected


CHOICE = ContextChoice(left=[4, 8], chunk=[1, 2, 4], right=[0, 3], full_probability=0.25)


@pytest.mark.parametrize("contexts", [[Context(4, chunk) for chunk in (1, 2, 4, 8)], CHOICE])
def test_the_context_of_a_step_depends_on_its_seed_and_number_only(contexts):
    drawn = [sample_context(contexts, seed=1, step=step) for step in range(200)]
    torch.manual_seed(99), random.seed(99)
    assert drawn == [sample_context(contexts, seed=1, step=step) for step in range(200)]
    assert drawn != [sample_context(contexts, seed=2, step=step) for step in range(200)]


def test_contexts_of_a_list_are_drawn_equally_often():
    contexts = [Context(4, chunk) for chunk in (1, 2, 4, 8)]
    drawn = Counter(sample_context(contexts, seed=1, step=step) for step in range(200))
    assert set(drawn) == set(contexts) and all(30 < count < 75 for count in drawn.values())


def test_the_parts_of_a_context_are_drawn_independently_of_each_other():
    drawn = Counter(CHOICE.draw(seed=3, step=step) for step in range(8000))
    assert set(drawn) == set(CHOICE.all()) and len(drawn) == 2 * 3 * 2 + 1
    # A quarter sees all; the rest is spread evenly. The bounds are five standard deviations.
    assert abs(drawn.pop(Context.full()) - 2000) < 5 * (8000 * 0.25 * 0.75) ** 0.5
    assert all(abs(count - 500) < 5 * (8000 / 16 * 15 / 16) ** 0.5 for count in drawn.values())


@pytest.mark.parametrize(("probability", "counts"), [(0.0, (4, 0)), (1.0, (0, 1)), (0.5, (4, 1))])
def test_all_contexts_are_those_that_can_be_drawn(probability, counts):
    choice = ContextChoice(left=[4], chunk=[1, 2], right=[0, 1], full_probability=probability)
    whole = [context.is_full for context in choice.all()]
    assert (whole.count(False), whole.count(True)) == counts
