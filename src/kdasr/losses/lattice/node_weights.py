"""What the nodes of a lattice weigh in a divergence before the student's own say. `uniform`: all alike.
`occupation`: by how often the student's paths leave a node. `teacher_occupation`: by how often the
teacher's do, within the student's band. `both`: by the product of the two, the probability that two paths
drawn independently meet in the node. A mean would also count nodes that one of them never visits: where
the student does not go, nothing is decided, and where the teacher does not, its distribution was never
trained by a pruned loss. `nonblank`: by the teacher's `1 - P(blank)`, so that what is emitted outweighs
the many nodes that are not (after Andrusenko et al. 2026, arXiv 2604.19079). `entropy`: by the entropy of
the teacher's distribution, so that nodes where it is sure, and has little to teach, count little (ours).
`occupation_nonblank`, `occupation_entropy`: these times the student's occupation. Occupations after the
consistency loss of Tseng et al. (SLT 2024). `PowerKl.weigh` (`kdasr.losses.lattice.kl`) makes them sum to
1 over an utterance.

Shapes: B utterances, T frames, K states kept per frame.
"""

import torch
from torch import Tensor

from kdasr.losses.lattice.blocks import plan_of_nodes
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.teacher_band import BandScores
from kdasr.losses.precision import as_float

NODE_WEIGHTS = (
    "uniform",
    "occupation",
    "teacher_occupation",
    "both",
    "nonblank",
    "entropy",
    "occupation_nonblank",
    "occupation_entropy",
)
BY_STUDENT = frozenset({"occupation", "both", "occupation_nonblank", "occupation_entropy"})
"""Those that `PowerKl` multiplies by the student's occupation."""
BY_TEACHER = frozenset(NODE_WEIGHTS) - {"uniform", "occupation"}
"""Those that need the teacher on all nodes of the band."""
BY_ENTROPY = frozenset({"entropy", "occupation_entropy"})
"""Those that need whole distributions there (`teacher_entropy`), not arcs alone."""


def teacher_weights(kind: str, teacher: BandScores, valid_BTK: Tensor) -> Tensor:
    """The teacher's part of the weights, `(B, T, K)`, without gradient; 0 outside the utterances.

    Args:
        kind: one of `BY_TEACHER`, but none of `BY_ENTROPY`.
        teacher: its arcs on the student's band.
        valid_BTK: whether a node is inside its utterance.

    Returns:
        Probabilities; 0 at all nodes of an utterance where the teacher has no path in the band. Where the
        teacher is NaN they are 1, so that the divergence is evaluated there and shows it.
    """
    if kind.endswith("nonblank"):
        weights_BTK = -teacher.blank_BTK.expm1()
    else:
        totals = teacher.totals()
        assert totals.occupation_BTK is not None
        ill_B = totals.scores_B.isnan()
        weights_BTK = totals.occupation_BTK.masked_fill(ill_B[:, None, None], 1.0)
    return weights_BTK.nan_to_num(nan=1.0).masked_fill(~valid_BTK, 0.0)


@torch.no_grad()
def teacher_entropy(
    teacher: NodeLogits, symbols_BS: Tensor, ranges_BTK: Tensor, boundary_B4: Tensor, valid_BTK: Tensor
) -> Tensor:
    """The entropy of the teacher's distribution at every node, `(B, T, K)`, in nats.

    Args:
        teacher: its logits at nodes of the student's frames and states. They exist for a block at a time.
        symbols_BS: int64, without a start symbol.
        ranges_BTK: states of each frame, the student's.
        boundary_B4: `[0, 0, s_end, t_end]`.
        valid_BTK: whether a node is inside its utterance.

    Returns:
        Entropies; 0 outside the utterances. Where the teacher's logits are NaN they are 1, so that the
        divergence is evaluated there and shows it.
    """
    with torch.autocast(device_type=ranges_BTK.device.type, enabled=False):
        plan = plan_of_nodes(symbols_BS, ranges_BTK, 0, boundary_B4, "regular")
        entropies = []
        for block in plan.blocks():
            log_probs_RV = torch.log_softmax(as_float(teacher.logits_of(*plan.rows(block))), dim=-1)
            terms_RV = log_probs_RV.exp().mul_(log_probs_RV)
            # A class without probability: 0 * -inf.
            terms_RV.masked_fill_(log_probs_RV == -torch.inf, 0.0)
            entropies.append(-terms_RV.sum(-1))
        if not entropies:  # no utterance has a frame
            return torch.zeros(valid_BTK.shape, device=valid_BTK.device)
        entropy_BTK = plan.spread(torch.cat(entropies).view(plan.states_FK.shape))
    return entropy_BTK.nan_to_num(nan=1.0).clamp(min=0.0).masked_fill(~valid_BTK, 0.0)
