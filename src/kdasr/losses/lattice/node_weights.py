"""What the nodes of a lattice weigh in a divergence before the student's own say.

`uniform`: all alike. `occupation`: by how often the student's paths leave a node. `teacher_occupation`: by
how often the teacher's do, within the student's band. `both`: by the product of the two, the probability
that two paths drawn independently meet in the node. A mean would also count nodes that one of them never
visits: where the student does not go, nothing is decided, and where the teacher does not, its distribution
was never trained by a pruned loss. `nonblank`: by the teacher's `1 - P(blank)`, so that what is emitted
outweighs the many nodes that are not (after Andrusenko et al. 2026, arXiv 2604.19079). Occupations after the
consistency loss of Tseng et al. (SLT 2024). `PowerKl.weigh` (`kdasr.losses.lattice.kl`) makes them sum to 1
over an utterance.

Shapes: B utterances, T frames, K states kept per frame.
"""

from torch import Tensor

from kdasr.losses.lattice.teacher_band import BandScores

NODE_WEIGHTS = ("uniform", "occupation", "teacher_occupation", "both", "nonblank")
BY_STUDENT = frozenset({"occupation", "both"})
"""Those that `PowerKl` multiplies by the student's occupation."""
BY_TEACHER = frozenset({"teacher_occupation", "both", "nonblank"})
"""Those that need the teacher on all nodes of the band."""


def teacher_weights(kind: str, teacher: BandScores, valid_BTK: Tensor) -> Tensor:
    """The teacher's part of the weights, `(B, T, K)`, without gradient; 0 outside the utterances.

    Args:
        kind: one of `BY_TEACHER`.
        teacher: its arcs on the student's band.
        valid_BTK: whether a node is inside its utterance.

    Returns:
        Probabilities; 0 at all nodes of an utterance where the teacher has no path in the band. Where the
        teacher is NaN they are 1, so that the divergence is evaluated there and shows it.
    """
    if kind == "nonblank":
        weights_BTK = -teacher.blank_BTK.expm1()
    else:
        totals = teacher.totals()
        assert totals.occupation_BTK is not None
        ill_B = totals.scores_B.isnan()
        weights_BTK = totals.occupation_BTK.masked_fill(ill_B[:, None, None], 1.0)
    return weights_BTK.nan_to_num(nan=1.0).masked_fill(~valid_BTK, 0.0)
