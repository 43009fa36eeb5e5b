"""What a context may be."""

import pytest

from kdasr.nn.blocks import clip_context
from kdasr.nn.context import Context


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
