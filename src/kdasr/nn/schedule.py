"""Numbers that change during training: piecewise linear in the amount of speech that was trained on."""

from bisect import bisect_right
from itertools import pairwise


class Clock:
    """How far training has come. One clock is shared by all modules of a model."""

    def __init__(self) -> None:
        self.batches = 0.0
        """Batches trained on so far."""
        self.share = 1.0
        """Of its optimizer step, the share that a batch is: see `Encoder.share`."""

    def ramp(self, *points: tuple[float, float]) -> "Ramp":
        """A number that follows these points (batches, value)."""
        return Ramp(self, points)


class Ramp:
    """A number that is linear between its points and constant outside of them."""

    def __init__(self, clock: Clock, points: tuple[tuple[float, float], ...]) -> None:
        assert points and all(a[0] < b[0] for a, b in pairwise(points)), points
        self.clock = clock
        self.points = points

    def __call__(self) -> float:
        """The number now."""
        now, points = self.clock.batches, self.points
        after = bisect_right([batch for batch, _ in points], now)
        if after == 0 or after == len(points):
            return points[min(after, len(points) - 1)][1]
        (start, first), (end, last) = points[after - 1 : after + 1]
        return first + (last - first) * (now - start) / (end - start)


def value(number: float | Ramp) -> float:
    """The number now, of a fixed one or of one that changes."""
    return number() if isinstance(number, Ramp) else number
