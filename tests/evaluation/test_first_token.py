"""The parts of the first-token latency, by hand and as a law."""

from dataclasses import astuple

import pytest
from streaming_helpers import GEOMETRY

from kdasr.evaluation.first_token import first_token_parts
from kdasr.nn.context import Context
from kdasr.recognition.windows import Windows

CHUNKED = Windows(Context(left=8, chunk=4, right=2), GEOMETRY)
FULL = Windows(Context.full(), GEOMETRY)


def test_parts_by_hand() -> None:
    # Frame 5 ends at 240 ms; its features need 77.5 - 40 = 37.5 ms more; the chunk ends with frame 7, two
    # frames later; two frames of right context follow: 9 * 40 + 77.5 = 437.5 ms.
    parts = first_token_parts(frame=5, shown=0.4375, wall=0.45, onset=0.1, windows=CHUNKED)
    assert astuple(parts) == pytest.approx((140.0, 37.5, 80.0, 80.0, 0.0, 12.5))


def test_an_input_that_ends_early_cuts_the_waiting_short() -> None:
    in_right = first_token_parts(frame=5, shown=0.4, wall=0.4, onset=0.1, windows=CHUNKED)
    assert astuple(in_right) == pytest.approx((140.0, 37.5, 80.0, 42.5, 0.0, 0.0))
    in_chunk = first_token_parts(frame=5, shown=0.3, wall=0.3, onset=0.1, windows=CHUNKED)
    assert astuple(in_chunk) == pytest.approx((140.0, 37.5, 22.5, 0.0, 0.0, 0.0))
    in_frame = first_token_parts(frame=5, shown=0.22, wall=0.22, onset=0.1, windows=CHUNKED)
    assert astuple(in_frame) == pytest.approx((120.0, 0.0, 0.0, 0.0, 0.0, 0.0))


def test_a_search_that_settles_later() -> None:
    parts = first_token_parts(frame=5, shown=0.5975, wall=0.6, onset=0.1, windows=CHUNKED)
    assert astuple(parts) == pytest.approx((140.0, 37.5, 80.0, 80.0, 160.0, 2.5))


def test_a_full_context_waits_for_the_end() -> None:
    parts = first_token_parts(frame=5, shown=2.0, wall=2.5, onset=0.1, windows=FULL)
    assert astuple(parts) == pytest.approx((140.0, 37.5, 1722.5, 0.0, 0.0, 500.0))


@pytest.mark.parametrize("frame", range(9))
@pytest.mark.parametrize("shown", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("windows", [CHUNKED, Windows(Context(left=0, chunk=1), GEOMETRY), FULL])
def test_parts_add_up_to_the_wall_clock_latency(frame: int, shown: float, windows: Windows) -> None:
    parts = first_token_parts(frame=frame, shown=shown, wall=shown + 0.02, onset=0.25, windows=windows)
    assert sum(astuple(parts)) == pytest.approx(1000 * (shown + 0.02 - 0.25))
    assert min(astuple(parts)[1:]) >= 0.0
