"""Divergence between the paths of a student and of a teacher through the student's pruned lattice.

A path `z` is an alignment of the transcript: a sequence of symbol and blank arcs, whose log-probability under
a model is the sum of its arcs' `l`. Chang et al. (ICLR 2023, arXiv 2312.10087) sum
`P_T(z) log(P_T(z) / P_S(z))` over all paths in linear time by a semiring. The same sum follows from what the
transducer's recursion gives anyway. With `Z = sum_z P(z)`, `Q(z) = P(z) / Z` and the teacher's occupations
`g_T(arc) = sum of Q_T over the paths that use it = d log Z_T / d l_T(arc)`,

    sum_z Q_T(z) log(P_T(z) / P_S(z)) = sum_z Q_T(z) sum_{arc in z} (l_T - l_S) = sum_arc g_T (l_T - l_S) =: C

because the inner sum changes places with the outer one. From C follow the three forms of `PathForm`:

    both     KL(Q_T || Q_S) = C - log Z_T + log Z_S    derivative by l_S:  g_S - g_T
    teacher  KL(Q_T || P_S) = C - log Z_T                                  -g_T
    none     sum P_T log(P_T / P_S) = Z_T C                                -Z_T g_T

as `d log Z_S / d l_S = g_S`. `both` compares alignments and nothing else; `teacher` is `both` plus
`-log Z_S`, the transducer loss on the band; `none` is the paper's sum, which may be negative. All are sums
over the paths *in the band*, which is the student's: in `none` an utterance weighs as much as the teacher
finds its transcript probable by those paths, which is little where the two align it differently.

Shapes: B utterances, T frames, K states kept per frame.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from kdasr.losses.lattice.teacher_band import BandScores
from kdasr.losses.pruned_rnnt.band import BandTotals

NORMALIZE = ("both", "teacher", "none")


@dataclass(frozen=True)
class PathForm:
    """Which divergence between paths."""

    normalize: str = "both"
    """Whose path probabilities are divided by their sum over the band: both | teacher | none."""
    exponent: float = 1.0
    """Power of the teacher's path probabilities, which are normalized after it: below 1 smooths its
    alignments, above 1 sharpens them."""

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZE:
            raise ValueError(f"normalize '{self.normalize}': expected one of {', '.join(NORMALIZE)}")
        if not 0.0 < self.exponent < math.inf:
            raise ValueError(f"exponent {self.exponent}: expected a number above 0")
        if self.normalize == "none" and self.exponent != 1.0:
            raise ValueError(f"exponent {self.exponent}: expected 1 with normalize 'none'")


class PathValues(NamedTuple):
    """A divergence of each utterance."""

    value_B: Tensor
    """Nats; 0 where no path of the teacher stays in the band."""
    symbol_grad_BTK: Tensor | None
    """Derivative by the student's score of each node's symbol; None when it was not asked for."""
    blank_grad_BTK: Tensor | None
    """The same by its blank score."""


class PathTerm(Protocol):
    """A divergence of a student's paths through its pruned lattice, with its gradient by the student's arcs;
    `PathKl` is one."""

    @property
    def band_shape(self) -> tuple[int, ...]:
        """`(B, T, K)`, of the band that its target is on."""
        ...

    @property
    def needs_totals(self) -> bool:
        """Whether `evaluate` needs the student's own recursion."""
        ...

    def evaluate(self, student: BandScores, totals: BandTotals | None, with_gradient: bool) -> PathValues:
        """The divergence; see `PathKl.evaluate`."""
        ...


class PathKl:
    """The divergence of a student's paths from a teacher's; a `PathTerm`."""

    def __init__(self, teacher: BandScores, form: PathForm) -> None:
        """
        Args:
            teacher: from `kdasr.losses.lattice.teacher_band`, on the student's band.
            form: which divergence.
        """
        self.teacher, self.form = teacher, form

    @property
    def band_shape(self) -> tuple[int, ...]:
        """`(B, T, K)`, of the band that the teacher's scores are on."""
        return tuple(self.teacher.ranges_BTK.shape)

    @property
    def needs_totals(self) -> bool:
        """Whether `evaluate` needs the student's own recursion."""
        return self.form.normalize == "both"

    def evaluate(self, student: BandScores, totals: BandTotals | None, with_gradient: bool) -> PathValues:
        """The divergence, and its gradient by the student's arcs.

        Args:
            student: its arcs' log-probabilities on the same band.
            totals: its `student.totals()`, with occupations if a gradient is asked for, when `needs_totals`;
                else None.
            with_gradient: also give the derivatives.

        Returns:
            inf where the teacher's paths use an arc that the student gives no probability; NaN where either
            one's total is. An utterance without a path is 0 and has no gradient.
        """
        exponent = self.form.exponent
        target = self.teacher.totals(exponent)
        assert target.symbol_grad_BTK is not None and target.blank_grad_BTK is not None
        value_B = _log_ratio(target.symbol_grad_BTK, self.teacher.symbol_BTK, student.symbol_BTK, exponent)
        value_B += _log_ratio(target.blank_grad_BTK, self.teacher.blank_BTK, student.blank_BTK, exponent)
        if self.form.normalize == "none":
            value_B = value_B * target.scores_B.exp()
        else:
            value_B = value_B - target.scores_B
        if totals is not None:
            # Where no path of the student's is possible, the sum over the teacher's is inf already.
            value_B = value_B + totals.scores_B.masked_fill(totals.scores_B.isneginf(), 0.0)
        value_B = value_B.masked_fill(target.scores_B.isneginf(), 0.0)
        return PathValues(value_B, *(self._gradient(target, totals) if with_gradient else (None, None)))

    def _gradient(self, target: BandTotals, totals: BandTotals | None) -> tuple[Tensor, Tensor]:
        """By the student's symbol and blank scores."""
        assert target.symbol_grad_BTK is not None and target.blank_grad_BTK is not None
        scores_B11 = target.scores_B[:, None, None]
        if totals is not None:
            assert totals.symbol_grad_BTK is not None and totals.blank_grad_BTK is not None
            possible_B11 = ~scores_B11.isneginf()
            return (
                totals.symbol_grad_BTK * possible_B11 - target.symbol_grad_BTK,
                totals.blank_grad_BTK * possible_B11 - target.blank_grad_BTK,
            )
        scale = -scores_B11.exp() if self.form.normalize == "none" else -1.0
        return target.symbol_grad_BTK * scale, target.blank_grad_BTK * scale


def _log_ratio(used_BTK: Tensor, teacher_BTK: Tensor, student_BTK: Tensor, exponent: float) -> Tensor:
    """`sum g_T (l_T - l_S)` over an utterance's arcs of one kind, `(B,)`."""
    scaled_BTK = teacher_BTK if exponent == 1.0 else teacher_BTK * exponent
    # Scores of arcs that no path uses may be anything, -inf and NaN too.
    return (used_BTK * (scaled_BTK - student_BTK)).masked_fill_(used_BTK == 0.0, 0.0).sum((1, 2))
