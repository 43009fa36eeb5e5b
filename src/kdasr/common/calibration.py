"""From a probability that only ranks to one that may be believed: a logistic map of its log-odds.

Platt, *Probabilistic outputs for support vector machines* (1999), with his targets, which keep the map finite
where one of the two kinds is rare.

Shapes: N observations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError

_EPSILON = 1e-6
"""Probabilities nearer to 0 or 1 than this count as this near: float32 cannot tell them apart."""
_STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """The probability with log-odds `slope` times those of the raw one, plus `offset`."""

    slope: float
    offset: float

    def __post_init__(self) -> None:
        if not (isfinite(self.slope) and isfinite(self.offset) and self.slope > 0):
            raise UserError(f"calibration {self.slope}, {self.offset}: expected numbers, the slope above 0")

    def __call__(self, probability: float) -> float:
        """The calibrated probability, in [0, 1]; never less for a larger raw one."""
        odds = self.slope * float(log_odds([probability])[0]) + self.offset
        return 1 / (1 + exp(-odds)) if odds >= 0 else exp(odds) / (1 + exp(odds))

    @classmethod
    def from_json(cls, value: Any) -> "Calibration | None":
        """The map with these `slope` and `offset`; None where there is none, or a null.

        Raises:
            UserError: neither.
        """
        if value is None:
            return None
        if isinstance(value, Mapping):
            slope, offset = value.get("slope"), value.get("offset")
            if isinstance(slope, int | float) and isinstance(offset, int | float):
                return cls(float(slope), float(offset))
        raise UserError(f"calibration {value!r:.60}: expected slope and offset")


def log_odds(probabilities: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """log(p / (1 - p)) of each (N,)."""
    inside_N = np.clip(np.asarray(probabilities, dtype=np.float64), _EPSILON, 1 - _EPSILON)
    return np.log(inside_N) - np.log1p(-inside_N)


def fit_calibration(probabilities: Sequence[float], correct: Sequence[bool]) -> Calibration | None:
    """The map under which these outcomes are the most likely, by Newton's method.

    Args:
        probabilities: raw ones (N,).
        correct: whether each came true (N,).

    Returns:
        None when that would rank backwards: the raw probabilities say nothing about these outcomes, or all
        outcomes are alike.
    """
    came_N = np.asarray(correct, dtype=bool)
    num_true = int(came_N.sum())
    num_false = len(came_N) - num_true
    if not num_true or not num_false:
        return None
    targets_N = np.where(came_N, (num_true + 1) / (num_true + 2), 1 / (num_false + 2))
    inputs_N2 = np.stack([log_odds(probabilities), np.ones(len(came_N))], axis=1)
    weights_2 = np.array([0.0, np.log((num_true + 1) / (num_false + 1))])
    loss = _loss(inputs_N2 @ weights_2, targets_N)
    for _ in range(_STEPS):
        said_N = 1 / (1 + np.exp(-inputs_N2 @ weights_2))
        gradient_2 = inputs_N2.T @ (said_N - targets_N)
        curvature_22 = (inputs_N2 * (said_N * (1 - said_N))[:, None]).T @ inputs_N2
        step_2 = np.linalg.solve(curvature_22 + 1e-9 * np.eye(2), gradient_2)
        # Half of a step that goes too far; the loss is convex, so some part of it does not.
        while (new := _loss(inputs_N2 @ (weights_2 - step_2), targets_N)) > loss and abs(
            step_2
        ).max() > 1e-12:
            step_2 /= 2
        weights_2, gain, loss = weights_2 - step_2, loss - new, new
        if gain <= 1e-12 * max(1.0, abs(loss)):
            break
    return Calibration(float(weights_2[0]), float(weights_2[1])) if weights_2[0] > 0 else None


def _loss(odds_N: NDArray[np.float64], targets_N: NDArray[np.float64]) -> float:
    """Cross entropy of the targets, in nats."""
    return float((np.logaddexp(0.0, odds_N) - targets_N * odds_N).sum())
